// Threads that wait for work by spinning a little and then sleeping.
//
// The kernels of one training step follow each other within microseconds, so a worker first watches the ticket
// counter for some tens of microseconds; only then does it sleep in a condition variable, where it costs nothing. A
// process that forks (data workers) leaves its threads behind: the child starts with an empty pool and makes its own
// when it first needs one. Nothing is started at import.
#include "pool.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#if defined(__x86_64__) || defined(__i386__)
#define RELAX() __builtin_ia32_pause()
#else
#define RELAX() ((void)0)
#endif
enum { MAX_THREADS = 256, SPINS = 2000 };

static pthread_mutex_t callers = PTHREAD_MUTEX_INITIALIZER;       // one job at a time
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;          // guards sleeping and waking
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static int wanted = 1, started = 1;                               // threads, the caller among them
static atomic_uint ticket;                                        // jobs handed out so far
static atomic_int busy;                                           // workers not yet ready with the last one
static atomic_int arrived;                                        // threads that wait at the barrier
static atomic_uint barriers;                                      // barriers passed so far
static unsigned first_ticket[MAX_THREADS];                        // what a worker has seen when it starts
static job current;
static void *current_context;
static int current_threads;
static float *scratch[MAX_THREADS];
static size_t scratch_floats;

static void *worker(void *argument) {
    int me = (int)(size_t)argument;
    unsigned seen = first_ticket[me], now;
    for (;;) {
        for (int k = 0; (now = atomic_load_explicit(&ticket, memory_order_acquire)) == seen && k < SPINS; k++) RELAX();
        if (now == seen) {
            pthread_mutex_lock(&lock);
            while ((now = atomic_load(&ticket)) == seen) pthread_cond_wait(&wake, &lock);
            pthread_mutex_unlock(&lock);
        }
        seen = now;
        if (me < current_threads) current(current_context, me, current_threads);
        atomic_fetch_sub_explicit(&busy, 1, memory_order_release);
    }
    return NULL;
}

static void forget_threads(void) {                                // in a forked child, where only the forking thread lives
    started = 1;
    atomic_store(&busy, 0);
    atomic_store(&arrived, 0);
    pthread_mutex_init(&callers, NULL);
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&wake, NULL);
}

// At load, not with the first worker: the parent may fork while another of its threads is in a kernel and holds `callers`.
__attribute__((constructor)) static void on_load(void) { pthread_atfork(NULL, NULL, forget_threads); }

static void start_threads(void) {
    while (started < wanted) {
        pthread_t thread;
        first_ticket[started] = atomic_load(&ticket);
        if (pthread_create(&thread, NULL, worker, (void *)(size_t)started)) {
            wanted = started;                                     // fewer threads are slower, not wrong
            break;
        }
        pthread_detach(thread);
        started++;
    }
}

int pool_threads(void) {
    pthread_mutex_lock(&callers);
    if (started < wanted) start_threads();
    pthread_mutex_unlock(&callers);
    return wanted;
}

void pool_run(job work, void *context) { pool_run_on(pool_threads(), work, context); }

void pool_run_on(int threads, job work, void *context) {
    pthread_mutex_lock(&callers);
    int shared = threads > 1;
    if (shared) {
        current_threads = threads;
        current = work;
        current_context = context;
        atomic_store(&busy, started - 1);
        pthread_mutex_lock(&lock);
        atomic_fetch_add(&ticket, 1);
        pthread_cond_broadcast(&wake);
        pthread_mutex_unlock(&lock);
    }
    work(context, 0, threads);
    for (int k = 0; shared && atomic_load_explicit(&busy, memory_order_acquire) > 0; k++) {
        RELAX();
        if (k > 100000) { k = 0; sched_yield(); }                 // more threads than free cores
    }
    pthread_mutex_unlock(&callers);
}

void pool_barrier(int threads) {
    if (threads == 1) return;
    unsigned before = atomic_load_explicit(&barriers, memory_order_acquire);
    if (atomic_fetch_add(&arrived, 1) + 1 == threads) {           // the last one opens it
        atomic_store(&arrived, 0);
        atomic_fetch_add(&barriers, 1);
        return;
    }
    for (int k = 0; atomic_load_explicit(&barriers, memory_order_acquire) == before; k++) {
        RELAX();
        if (k > 10000) { k = 0; sched_yield(); }                  // the others wait for a core
    }
}

int emonet_set_threads(int threads) {
    pthread_mutex_lock(&callers);
    wanted = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
    scratch_floats = 0;                                           // every thread's scratch is looked at again
    pthread_mutex_unlock(&callers);
    return wanted;
}

int pool_reserve(size_t floats) {
    if (floats <= scratch_floats) return 0;
    floats = (floats + 1023) / 1024 * 1024;
    scratch_floats = 0;                                           // a child forked in between has none
    for (int t = 0; t < wanted; t++) {
        float *old = scratch[t];
        scratch[t] = NULL;
        free(old);
        scratch[t] = aligned_alloc(4096, floats * sizeof(float));
        if (!scratch[t]) return -1;
    }
    scratch_floats = floats;
    return 0;
}

float *pool_scratch(int thread) { return scratch[thread]; }

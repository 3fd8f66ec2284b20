// CUDA on one CPU thread: a fiber for every CUDA thread, each run until it waits. tests/cuda/shim.py puts this in front of
// the text that launch.py gives to the compiler, builds it with g++ and calls shim_launch, once in forward and once in
// reverse order of blocks and threads. A missing barrier then shows as a difference, or as a poisoned value.
//
// What is emulated: barriers, warp shuffles and votes, static and dynamic shared memory (all bits 1 at the start of a
// block, which is NaN for floats), atomics, tensor-core products, cooperative launches. What is not: rounding of a GPU
// (expf, fused multiply-add, flushed denormals), weak memory order, speed.
#include <cmath>
#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __shared__ static __attribute__((section("emonet_shared")))
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct uint3 { unsigned x, y, z; };
typedef uint3 dim3;
#define VECTORS(T, name)                                                                     \
    struct alignas(2 * sizeof(T)) name##2 { T x, y; };                                       \
    struct alignas(sizeof(T) < 8 ? 4 * sizeof(T) : 16) name##4 { T x, y, z, w; };            \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                        \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
VECTORS(float, float) VECTORS(double, double) VECTORS(int, int) VECTORS(unsigned, uint) VECTORS(unsigned char, uchar)

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;

// ---- fibers and their scheduler ----

extern "C" char __start_emonet_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_emonet_shared[] __attribute__((weak, visibility("hidden")));

namespace shim {

enum State { READY, DONE, SPIN, BLOCK, WARP };
const char* const DOES[] = {"has not got there", "has returned", "spins in line %d", "waits at __syncthreads in line %d",
                            "waits for its warp in line %d"};
const size_t STACK = 128 << 10, PAGE = 4096, GUARD = 4096, MAX_SHARED = 227 << 10;

struct Thread {
    State state;
    int line, number;                   // the source line where it waits; its number in the block
    unsigned mask;                      // of its warp's collective
    void* record;                       // what it brings to the collective
    uint3 index;
    bool made;                          // has `start` been used up?
    char* stack;
    ucontext_t* start;
    jmp_buf context;                    // where it goes on
};

struct Block {
    uint3 index;
    bool done;
    int arrived;
    char* shared;                       // its shared memory while another block runs
};

alignas(1024) static char dynamic_shared[MAX_SHARED + GUARD];
static Thread *fibers, *threads, *current;      // all; those of the running block; the running one
static int fibers_made, block_size, arrived, step;       // arrived: threads of the running block at __syncthreads
static long events;                             // whatever changes the state of a thread
static size_t dynamic_size;
static bool cooperative;
static jmp_buf scheduler;
static sigjmp_buf failure;
static char* message;
static void (*entry)(void**);
static void** arguments;

[[noreturn]] __attribute__((format(printf, 1, 2))) static void fail(const char* format, ...) {
    int used = snprintf(message, 1000, "block (%u, %u, %u)", blockIdx.x, blockIdx.y, blockIdx.z);
    va_list list;
    va_start(list, format);
    vsnprintf(message + used, 1000 - used, format, list);
    va_end(list);
    for (int i = 0; i < fibers_made; i++) fibers[i].made = false;             // left in the middle, not to be continued
    siglongjmp(failure, 1);
}

// Let others run; returns when the scheduler comes back to this thread.
__attribute__((noinline)) static void wait(State state, int line) {
    current->state = state;
    current->line = line;
    if (!_setjmp(current->context)) _longjmp(scheduler, 1);
}

static void live() {                                                          // a fiber runs one CUDA thread after another
    for (;;) {
        entry(arguments);
        events++;
        wait(DONE, 0);
    }
}

__attribute__((noinline)) static void resume(Thread* t) {
    current = t;
    threadIdx = t->index;
    if (_setjmp(scheduler)) return;
    if (t->made) _longjmp(t->context, 1);
    t->made = true;
    setcontext(t->start);
}

static void provide_fibers(int count) {
    if (count > fibers_made) {
        fibers = (Thread*)realloc((void*)fibers, count * sizeof(Thread));
        for (Thread* t = fibers + fibers_made; t < fibers + count; t++) {
            t->made = false;
            int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
            t->stack = (char*)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, flags, -1, 0);
            if (t->stack == MAP_FAILED) fail(": no memory for %d fibers", count);
            mprotect(t->stack, PAGE, PROT_NONE);                              // an overflow is a fault, not a wrong result
            t->start = (ucontext_t*)malloc(sizeof(ucontext_t));
        }
        fibers_made = count;
    }
    for (int i = 0; i < count; i++) {
        Thread* t = fibers + i;
        int n = i % block_size;
        t->state = READY;
        t->line = 0;
        t->number = n;
        t->index = {n % blockDim.x, n / blockDim.x % blockDim.y, n / blockDim.x / blockDim.y};
        if (t->made) continue;
        getcontext(t->start);
        t->start->uc_stack.ss_sp = t->stack;
        t->start->uc_stack.ss_size = STACK;
        t->start->uc_link = nullptr;
        makecontext(t->start, live, 0);
    }
}

// Nobody in the block can go on: name two threads that differ in what they do.
[[noreturn]] static void stuck() {
    Thread *a = threads, *b = threads;
    while (a->state == DONE) a++;
    while (b < threads + block_size - 1 && b->state == a->state && b->line == a->line && b->mask == a->mask) b++;
    char does[2][80];
    snprintf(does[0], 80, DOES[a->state], a->line);
    snprintf(does[1], 80, DOES[b->state], b->line);
    fail(": divergent: thread (%u, %u, %u) %s, thread (%u, %u, %u) %s", a->index.x, a->index.y, a->index.z, does[0],
         b->index.x, b->index.y, b->index.z, does[1]);
}

// Run a warp until its threads wait for others; those that spin look once.
static void run_warp(int first) {
    int lanes = block_size - first < 32 ? block_size - first : 32;
    long before = -1;
    for (bool again = false; events != before; again = true) {
        before = events;
        for (int i = 0; i < lanes; i++) {
            Thread* t = threads + first + (step > 0 ? i : lanes - 1 - i);
            if (t->state == READY || (t->state == SPIN && !again)) resume(t);
        }
    }
}

// Run the threads of a block until all have returned (true) or all that have not wait for other blocks (false). A warp goes
// as far as it can before the next one starts, so that warps are as far apart as the barriers allow.
static bool run() {
    int warps = (block_size + 31) / 32;
    for (;;) {
        long before = events;
        int done = 0, spinning = 0;
        for (int w = 0; w < warps; w++) run_warp(32 * (step > 0 ? w : warps - 1 - w));
        for (int i = 0; i < block_size; i++) {
            done += threads[i].state == DONE;
            spinning += threads[i].state == SPIN;
        }
        if (done == block_size) return true;
        if (events != before) continue;
        if (!spinning) stuck();
        return false;
    }
}

static size_t static_size() { return __stop_emonet_shared - __start_emonet_shared; }

static void poison() {
    if (static_size()) memset(__start_emonet_shared, 0xff, static_size());
    memset(dynamic_shared, 0xff, dynamic_size + GUARD);
}

static void check_shared() {
    for (size_t i = 0; i < GUARD; i++)
        if (dynamic_shared[dynamic_size + i] != char(0xff)) fail(": wrote %zu bytes behind its dynamic shared memory", i);
}

static void exchange(Block* b, bool in) {                                     // shared memory of one block for another's
    char *parts[] = {__start_emonet_shared, dynamic_shared}, *kept = b->shared;
    size_t sizes[] = {static_size(), dynamic_size + GUARD};
    for (int i = 0; i < 2; kept += sizes[i++]) {
        if (!sizes[i]) continue;
        if (in) memcpy(parts[i], kept, sizes[i]);
        else memcpy(kept, parts[i], sizes[i]);
    }
}

static uint3 block_index(long b) {
    return {unsigned(b % gridDim.x), unsigned(b / gridDim.x % gridDim.y), unsigned(b / gridDim.x / gridDim.y)};
}

static void run_one_by_one(long blocks) {
    for (long b = 0; b < blocks; b++) {
        blockIdx = block_index(step > 0 ? b : blocks - 1 - b);
        provide_fibers(block_size);
        threads = fibers;
        poison();
        arrived = 0;
        if (!run()) fail(": waits for another block; the launch is not cooperative");
        check_shared();
    }
}

static void run_all_at_once(long blocks) {
    Block* all = (Block*)calloc(blocks, sizeof(Block));
    provide_fibers(blocks * block_size);
    for (long b = 0; b < blocks; b++) {
        all[b].index = block_index(b);
        all[b].shared = (char*)malloc(static_size() + dynamic_size + GUARD);
        poison();
        exchange(all + b, false);
    }
    long done = 0, before = 0;
    for (int idle = 0; done < blocks; idle = events == before ? idle + 1 : 0) {
        if (idle == 3) fail(": waits for other blocks, and they for it");
        before = events;
        for (long k = 0; k < blocks; k++) {
            long b = step > 0 ? k : blocks - 1 - k;
            if (all[b].done) continue;
            blockIdx = all[b].index;
            threads = fibers + b * block_size;
            arrived = all[b].arrived;
            exchange(all + b, true);
            if (run()) check_shared(), all[b].done = true, done++;
            exchange(all + b, false);
            all[b].arrived = arrived;
        }
    }
    for (long b = 0; b < blocks; b++) free(all[b].shared);
    free(all);
}

static void on_signal(int number) {
    uint3 i = current->index;
    fail(", thread (%u, %u, %u): %s", i.x, i.y, i.z,
         number == SIGILL ? "an index outside of its array, a misaligned address, or an overflow of int"
         : number == SIGVTALRM ? "still runs when its time is over" : "an address outside of all memory");
}

static int launch(long blocks, int seconds) {
    static char stack[64 << 10];
    const int numbers[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGVTALRM};
    stack_t mine = {}, old_stack;
    struct sigaction action = {}, old[5];
    struct itimerval limit = {{0, 0}, {seconds, 0}}, none = {};
    mine.ss_sp = stack;
    mine.ss_size = sizeof stack;
    action.sa_handler = on_signal;
    action.sa_flags = SA_ONSTACK;
    sigaltstack(&mine, &old_stack);
    for (int i = 0; i < 5; i++) sigaction(numbers[i], &action, old + i);
    setitimer(ITIMER_VIRTUAL, &limit, nullptr);
    int failed = sigsetjmp(failure, 1);
    if (!failed) cooperative ? run_all_at_once(blocks) : run_one_by_one(blocks);
    setitimer(ITIMER_VIRTUAL, &none, nullptr);
    for (int i = 0; i < 5; i++) sigaction(numbers[i], old + i, nullptr);
    sigaltstack(&old_stack, nullptr);
    return failed;
}

// ---- barriers and warps: the last thread to come does the work for all and goes on first ----

__attribute__((noinline)) static void barrier(int line) {
    events++;
    current->state = BLOCK;
    current->line = line;
    current->mask = 0;
    if (++arrived < block_size) return wait(BLOCK, line);
    for (int i = 0; i < block_size; i++)
        if (threads[i].line != line) stuck();
    arrived = 0;
    for (int i = 0; i < block_size; i++) threads[i].state = READY;
}

// Wait until all lanes of `mask` are here, at the same line with the same mask; work(records of the 32 lanes) once.
__attribute__((noinline)) static void collective(int line, unsigned mask, void* record, void (*work)(void**)) {
    Thread* warp = threads + current->number / 32 * 32;
    int lanes = block_size - int(warp - threads) < 32 ? block_size - int(warp - threads) : 32;
    if (!(mask >> current->number % 32 & 1))
        fail(", thread (%u, %u, %u): its lane is not in the mask of line %d", threadIdx.x, threadIdx.y, threadIdx.z, line);
    events++;
    current->state = WARP;
    current->line = line;
    current->mask = mask;
    current->record = record;
    void* records[32] = {};
    for (int k = 0; k < lanes; k++) {
        int i = step > 0 ? lanes - 1 - k : k;
        if (!(mask >> i & 1)) continue;
        if (warp[i].state != WARP || warp[i].line != line || warp[i].mask != mask) return wait(WARP, line);
        records[i] = warp[i].record;
    }
    work(records);
    for (int i = 0; i < lanes; i++)
        if (mask >> i & 1) warp[i].state = READY;
}

struct Shuffle {
    unsigned long long value;
    int source;
};

template <typename T>
T shuffle(int line, unsigned mask, T value, int source) {
    Shuffle mine = {0, source};
    memcpy(&mine.value, &value, sizeof value);
    collective(line, mask, &mine, [](void** records) {
        unsigned long long values[32];
        for (int i = 0; i < 32; i++) values[i] = records[i] ? ((Shuffle*)records[i])->value : ~0ull;   // no such lane: NaN
        for (int i = 0; i < 32; i++)
            if (records[i]) ((Shuffle*)records[i])->value = values[((Shuffle*)records[i])->source & 31];
    });
    memcpy(&value, &mine.value, sizeof value);
    return value;
}

static int lane() { return current->number % 32; }

static inline unsigned ballot(int line, unsigned mask, int predicate) {
    Shuffle mine = {0, predicate != 0};
    collective(line, mask, &mine, [](void** records) {
        unsigned votes = 0;
        for (int i = 0; i < 32; i++) votes |= unsigned(records[i] && ((Shuffle*)records[i])->source) << i;
        for (int i = 0; i < 32; i++)
            if (records[i]) ((Shuffle*)records[i])->value = votes;
    });
    return unsigned(mine.value);
}

static inline float as_float(unsigned u) { float f; memcpy(&f, &u, 4); return f; }
static inline unsigned as_uint(float f) { unsigned u; memcpy(&u, &f, 4); return u; }

// ---- tensor cores, by the layout of fragments in the PTX ISA; the hardware cuts TF32 operands to 19 bits ----

struct Product {
    float* d;
    const unsigned *a, *b;
};

template <int K> float element(unsigned word, int k);        // number k of the pair (bf16), or the only one (tf32)
template <> inline float element<8>(unsigned word, int) { return as_float(word & 0xffffe000u); }
template <> inline float element<16>(unsigned word, int k) { return as_float(k % 2 ? word & 0xffff0000u : word << 16); }

template <int K>
void multiply(void** records) {
    Product* p[32];
    for (int i = 0; i < 32; i++)
        if (!(p[i] = (Product*)records[i])) fail(": a tensor-core product of fewer than 32 lanes");
    const int per = K / 8, half = K / 2;                     // numbers in a register; columns before the next register
    float a[16][K], b[K][8];
    for (int lane = 0; lane < 32; lane++)
        for (int k = 0; k < per; k++) {
            int g = lane / 4, t = lane % 4 * per + k;
            for (int r = 0; r < 4; r++) a[g + r % 2 * 8][t + r / 2 * half] = element<K>(p[lane]->a[r], k);
            for (int r = 0; r < 2; r++) b[t + r * half][g] = element<K>(p[lane]->b[r], k);
        }
    for (int lane = 0; lane < 32; lane++)
        for (int r = 0; r < 4; r++) {
            int row = lane / 4 + r / 2 * 8, column = lane % 4 * 2 + r % 2;
            double sum = p[lane]->d[r];
            for (int k = 0; k < K; k++) sum += double(a[row][k]) * b[k][column];
            p[lane]->d[r] = float(sum);
        }
}

}  // namespace shim

// ---- the names that kernels use ----

#define __syncthreads() shim::barrier(__LINE__)
#define __syncwarp(...) shim::collective(__LINE__, 0xffffffffu, nullptr, [](void**) {})
#define __shfl_sync(mask, v, source) shim::shuffle(__LINE__, mask, v, source)
#define __shfl_xor_sync(mask, v, distance) shim::shuffle(__LINE__, mask, v, shim::lane() ^ (distance))
#define __shfl_down_sync(mask, v, distance) \
    shim::shuffle(__LINE__, mask, v, shim::lane() + int(distance) < 32 ? shim::lane() + int(distance) : shim::lane())
#define __shfl_up_sync(mask, v, distance) \
    shim::shuffle(__LINE__, mask, v, shim::lane() >= int(distance) ? shim::lane() - int(distance) : shim::lane())
#define __ballot_sync(mask, p) shim::ballot(__LINE__, mask, p)
#define __any_sync(mask, p) (shim::ballot(__LINE__, mask, p) != 0)
#define __all_sync(mask, p) (shim::ballot(__LINE__, mask, !(p)) == 0)
#define spin() (shim::wait(shim::SPIN, __LINE__))
#define mma_tf32(d, a, b) emonet_mma<8>(__LINE__, d, a, b)
#define mma_bf16(d, a, b) emonet_mma<16>(__LINE__, d, a, b)

template <int K>
void emonet_mma(int line, float* d, const unsigned* a, const unsigned* b) {
    shim::Product mine = {d, a, b};
    shim::collective(line, 0xffffffffu, &mine, shim::multiply<K>);
}

static inline void __threadfence() {}
static inline void __threadfence_block() {}

template <typename T> T __ldg(const T* p) { return *p; }
template <typename T, typename U> T atomicAdd(T* p, U v) { T old = *p; *p = T(old + v); return old; }
template <typename T, typename U> T atomicMax(T* p, U v) { T old = *p; if (T(v) > old) *p = T(v); return old; }
template <typename T, typename U> T atomicExch(T* p, U v) { T old = *p; *p = T(v); return old; }
template <typename T> T atomicCAS(T* p, T expected, T v) { T old = *p; if (old == expected) *p = v; return old; }

static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline long long min(long long a, long long b) { return a < b ? a : b; }
static inline long long max(long long a, long long b) { return a > b ? a : b; }
static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned __int128)a * b >> 64;
}
static inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((unsigned long long)a * b >> 32); }
static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
#define __expf expf
#define __logf logf
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __frcp_rn(float x) { return 1 / x; }
static inline float __uint_as_float(unsigned u) { return shim::as_float(u); }
static inline unsigned __float_as_uint(float f) { return shim::as_uint(f); }
static inline float __int_as_float(int i) { return shim::as_float(unsigned(i)); }
static inline int __float_as_int(float f) { return int(shim::as_uint(f)); }

static inline float to_tf32(float x) {
    unsigned u = shim::as_uint(x);
    return (u >> 23 & 255) == 255 ? x : shim::as_float((u + 0x1000) & 0xffffe000u);
}

static inline unsigned shim_bf16(float x) {
    unsigned u = shim::as_uint(x);
    return x != x ? 0x7fff : (u + 0x7fff + (u >> 16 & 1)) >> 16;
}

static inline unsigned pack_bf16(float lo, float hi) { return shim_bf16(lo) | shim_bf16(hi) << 16; }

// One launch; 0, or 1 and a line in text[1000].
extern "C" int shim_launch(void (*thread)(void**), void** args, const unsigned* grid, const unsigned* block, size_t shared,
                           int all_at_once, int reverse, int seconds, char* text) {
    using namespace shim;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    block_size = block[0] * block[1] * block[2];
    dynamic_size = shared;
    cooperative = all_at_once;
    step = reverse ? -1 : 1;
    message = text;
    entry = thread;
    arguments = args;
    events = 0;
    return launch(long(grid[0]) * grid[1] * grid[2], seconds);
}

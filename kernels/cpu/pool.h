// One pool of threads for all kernels, and the memory they work in.
#pragma once
#include <stddef.h>

// Whether bf16.c is compiled: by compilers that know the instructions, on the system that is asked for tiles as Linux is.
#if defined(__x86_64__) && defined(__linux__) && __GNUC__ >= 11
#define HAS_BF16
#endif

typedef void (*job)(void *context, int thread, int threads);

// Run job(context, t, threads) for every t in 0..threads-1, 0 on the caller; returns when all are done. Handing work to
// another thread costs some microseconds, and much more on a busy machine: run on 1 where there is little to do.
void pool_run_on(int threads, job work, void *context);
void pool_run(job work, void *context);                           // on all
int pool_threads(void);                                           // how many there are; starts them when first asked

// Inside a job, called by each of its threads: returns when all have come here; what they wrote before is seen behind it.
void pool_barrier(int threads);

// Make sure that every thread owns `floats` of scratch memory, 64-byte aligned; 0, or -1 when there is no memory.
// Scratch is kept between calls and grows only, so a steady training step allocates nothing.
int pool_reserve(size_t floats);
float *pool_scratch(int thread);

// One pool of threads for all kernels, and the memory they work in.
#pragma once
#include <stddef.h>

typedef void (*job)(void *context, int thread, int threads);

// Run job(context, t, threads) for every t in 0..threads-1, the last on the caller; returns when all are done.
void pool_run(job work, void *context);
int pool_threads(void);

// Make sure that every thread owns `floats` of scratch memory, 64-byte aligned; 0, or -1 when there is no memory.
// Scratch is kept between calls and grows only, so a steady training step allocates nothing.
int pool_reserve(size_t floats);
float *pool_scratch(int thread);

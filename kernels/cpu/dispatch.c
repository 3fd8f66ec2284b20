// Which instruction sets this processor has: 0 plain, 1 avx2, 2 avx512.
int emonet_supports(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")
        && __builtin_cpu_supports("avx512bw")) return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

// Counts changes of the structs and arguments that emonet_scratch/kernels/cpu passes; library.py there refuses a library of
// another count.
int emonet_abi(void) { return 2; }

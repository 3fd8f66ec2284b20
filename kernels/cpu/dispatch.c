#include "pool.h"
#ifdef HAS_BF16
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

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

// Whether this processor multiplies pairs of bfloat16: 0 no, 1 in registers (AVX512-BF16), 2 in tiles, too (AMX). For these
// Linux wants to be asked, once a process: only with ask, and then 2 means that they may be used.
int emonet_rounds(int ask) {
    int can = 0;
#ifdef HAS_BF16
    unsigned a, b, c, d;
    if (emonet_supports() == 2 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && a >> 5 & 1) can = 1;
    if (can && __get_cpuid_count(7, 0, &a, &b, &c, &d) && d >> 22 & d >> 24 & 1) can = 2;
    if (can == 2 && ask && syscall(SYS_arch_prctl, 0x1023, 18)) can = 1;      // ARCH_REQ_XCOMP_PERM, TILEDATA
#else
    (void)ask;
#endif
    return can;
}

// Whether products of bf16 use tiles: only where emonet_rounds(1) gave 2.
int emonet_tiles;
void emonet_use_tiles(int use) { emonet_tiles = use; }

// Counts changes of the structs and arguments that emonet_scratch/kernels/cpu passes; library.py there refuses a library of
// another count.
int emonet_abi(void) { return 3; }

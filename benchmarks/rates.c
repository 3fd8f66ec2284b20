// What one core can do at most: multiply-adds of each instruction, and bytes that it loads a second from each level of memory.
// One line for each: a name and a number. benchmarks/bf16.py compiles and runs this.
#define _GNU_SOURCE
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

// The best of seven: neighbours on the machine take time, and never give any.
#define BEST(name, work, ...)                                                                                         \
    do {                                                                                                              \
        double best = 1e9;                                                                                            \
        for (int turn = 0; turn < 7; turn++) {                                                                        \
            double start = now();                                                                                     \
            __VA_ARGS__;                                                                                              \
            double seconds = now() - start;                                                                           \
            best = seconds < best ? seconds : best;                                                                   \
        }                                                                                                             \
        printf("%s %.1f\n", name, (work) / best / 1e9);                                                               \
    } while (0)
#define TWELVE(op) op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11)
#define SUM(i) __m512 a##i = one;
#define FMA(i) __asm__ volatile("vfmadd231ps %1, %1, %0" : "+v"(a##i) : "v"(one));
#define PAIR(i) __asm__ volatile("vdpbf16ps %1, %1, %0" : "+v"(a##i) : "v"(one));
enum { ROUNDS = 500000, TILES = 200000 };

__attribute__((target("avx512f"))) static void registers(void) {
    __m512 one = _mm512_set1_ps(1);
    TWELVE(SUM)
    long cycles = 30000000;
    BEST("clock_GHz", (double)cycles, for (long i = 0, x = 0; i < cycles; i++) __asm__ volatile("add $1, %0" : "+r"(x)));
    BEST("fma_Gmac", 12. * 16 * ROUNDS, for (int i = 0; i < ROUNDS; i++) { TWELVE(FMA) });
    BEST("vdpbf16ps_Gmac", 12. * 32 * ROUNDS, for (int i = 0; i < ROUNDS; i++) { TWELVE(PAIR) });
    const size_t sizes[] = {24 << 10, 768 << 10, 16 << 20, 256 << 20};
    for (int level = 0; level < 4; level++) {
        size_t size = sizes[level];
        float *p = aligned_alloc(64, size);
        char name[40];
        for (size_t i = 0; i < size / 4; i++) p[i] = 1;
        int times = (int)(((size_t)64 << 20) / size + 1);
        snprintf(name, sizeof name, "load_%zuK_GB", size >> 10);
        BEST(name, (double)size * times, for (int k = 0; k < times; k++) for (size_t i = 0; i < size / 4; i += 64) {
            a0 += _mm512_load_ps(p + i), a1 += _mm512_load_ps(p + i + 16);
            a2 += _mm512_load_ps(p + i + 32), a3 += _mm512_load_ps(p + i + 48);
        });
        free(p);
    }
    volatile float sink = a0[0] + a1[0] + a2[0] + a3[0];
    (void)sink;
}

__attribute__((target("amx-tile,amx-bf16"))) static void tiles(void) {
    static struct { uint8_t palette, start, none[14]; uint16_t bytes[16]; uint8_t rows[16]; } config = {.palette = 1};
    static uint8_t memory[8192] __attribute__((aligned(64)));
    for (int i = 0; i < 8; i++) config.bytes[i] = 64, config.rows[i] = 16;
    __asm__ volatile("" ::: "memory");
    _tile_loadconfig(&config);
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); _tile_zero(4); _tile_zero(5); _tile_zero(6); _tile_zero(7);
    BEST("tdpbf16ps_Gmac", 4. * 8192 * TILES, for (int i = 0; i < TILES; i++) {
        _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7); _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7);
    });
    BEST("tdpbf16ps_with_loads_Gmac", 4. * 8192 * TILES, for (int i = 0; i < TILES; i++) {
        _tile_loadd(4, memory, 64); _tile_loadd(6, memory + 1024, 64);
        _tile_loadd(7, memory + 2048, 64); _tile_loadd(5, memory + 3072, 64);
        _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7); _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7);
    });
    _tile_release();
}

int main(int argc, char **argv) {
    int can = argc > 1 ? atoi(argv[1]) : 0;
    if (can < 1) return 1;
    registers();
    if (can > 1 && syscall(SYS_arch_prctl, 0x1023, 18) == 0) tiles();
    return 0;
}

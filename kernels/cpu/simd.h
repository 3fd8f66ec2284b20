// Vectors of VL floats in GNU C: the compiler turns `a * b + c` into the widest instructions of the target that the
// including file has chosen. One source, three builds: VL = 16 (AVX-512), 8 (AVX2 + FMA), 4 (SSE2 or NEON).
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "pool.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")
#define JOIN2(a, b) a##_##b
#define JOIN(a, b) JOIN2(a, b)
#define API(name) JOIN(emonet_##name, VARIANT)       // the exported name: emonet_conv_forward_avx512, ...

typedef float vec __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * VL), aligned(4), may_alias));

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }
INLINE vec spread(float x) { return x - (vec){0}; }

// The first n floats at p (n < VL only behind the last full vector of a row); the others are zero, and not touched.
INLINE vec load_n(const float *p, int n) {
    if (n >= VL) return load(p);
#ifdef BF16
    return (vec)_mm512_maskz_loadu_ps((__mmask16)((1 << (n > 0 ? n : 0)) - 1), p);
#endif
    float t[VL] = {0};
    for (int i = 0; i < n; i++) t[i] = p[i];
    return load(t);
}
INLINE void store_n(float *p, vec v, int n) {
    if (n >= VL) { store(p, v); return; }
    float t[VL];
    store(t, v);
    for (int i = 0; i < n; i++) p[i] = t[i];
}
INLINE vec choose(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }
INLINE vec where(ivec mask, vec x) { return x * choose(mask, (vec){0} + 1, (vec){0}); }   // a NaN stays one, masked or not
INLINE vec relu(vec x) { return choose(x < 0, (vec){0}, x); }      // a NaN stays one

INLINE int up(int x, int m) { return (x + m - 1) / m * m; }
INLINE int least(int a, int b) { return a < b ? a : b; }
INLINE int most(int a, int b) { return a > b ? a : b; }

// Rows of B and C of gemm.h are padded to a multiple of GROUP: 8 channels fill one vector of AVX2, but half of one of AVX-512,
// so narrow layers are left to the AVX2 build on both.
enum { GROUP = VL == 16 ? 16 : 8 };
INLINE int padded(int channels) { return up(channels, GROUP); }

typedef struct { const float *at; ptrdiff_t row, column; } matrix;           // and the strides from row to row, column to column

// The part of `items` that thread t of n works on: [*from, *to), the same for the same n, so results are too.
INLINE void share(int items, int t, int n, int *from, int *to) {
    *from = (int)((long)items * t / n);
    *to = (int)((long)items * (t + 1) / n);
}

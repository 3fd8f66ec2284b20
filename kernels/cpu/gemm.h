// The one matrix product of all kernels, as sums over two nested runs:
//
//     C[i][f] (+)= sum over r < rows, k < run of  A[i ai + r ar + k ak] * B[r br + k bk + f]
//
// rows = 1 is the plain product; ai = 1 takes A transposed; a 3x3 convolution along an image row is rows = 3 and
// run = 3 C, because with channels last the three pixels under a filter row lie side by side.
//
// A register tile of MR x NV vectors of C is kept in registers over both runs. Each step loads NV vectors of B and
// broadcasts MR numbers of A: with 12 x 2 or 6 x 4 that is 24 multiply-adds for 14 or 10 loads, so the
// multipliers and not the memory set the pace.
#pragma once
#include "simd.h"

INLINE void tile(const int MR, const int NV, int rows, int run, const float *A, ptrdiff_t ai, ptrdiff_t ak, ptrdiff_t ar,
                 const float *B, ptrdiff_t bk, ptrdiff_t br, float *C, ptrdiff_t ldc, int add) {
    vec acc[12][4];
    UNROLL for (int i = 0; i < MR; i++)
        UNROLL for (int v = 0; v < NV; v++) acc[i][v] = add ? load(C + i * ldc + v * VL) : (vec){0};
    for (int r = 0; r < rows; r++) {
        // Four base pointers and one stride address all rows of A: [base], [base + ai], [base + 2 ai].
        const float *a[4] = {A + r * ar, A + r * ar + 3 * ai, A + r * ar + 6 * ai, A + r * ar + 9 * ai};
        const float *b = B + r * br;
        for (int k = 0; k < run; k++) {
            vec w[4];
            UNROLL for (int v = 0; v < NV; v++) w[v] = load(b + v * VL);
            UNROLL for (int i = 0; i < MR; i++) {
                float x = a[i / 3][(i % 3) * ai];
                UNROLL for (int v = 0; v < NV; v++) acc[i][v] += x * w[v];
            }
            UNROLL for (int q = 0; q < 4; q++) a[q] += ak;
            b += bk;
        }
    }
    UNROLL for (int i = 0; i < MR; i++)
        UNROLL for (int v = 0; v < NV; v++) store(C + i * ldc + v * VL, acc[i][v]);
}

#define TILE(MR, NV) tile(MR, NV, rows, run, A, ai, ak, ar, B, bk, br, C, ldc, add)
#define COLUMN(NV, FULL)                                                                                              \
    INLINE void column##NV(int M, int rows, int run, const float *A, ptrdiff_t ai, ptrdiff_t ak, ptrdiff_t ar,        \
                           const float *B, ptrdiff_t bk, ptrdiff_t br, float *C, ptrdiff_t ldc, int add) {            \
        for (int m; M > 0; M -= m, A += m * ai, C += m * ldc) {                                                       \
            if (M >= FULL && M != FULL + 4) { m = FULL; TILE(FULL, NV); }                                             \
            else if (M >= 8 && FULL > 8) { m = 8; TILE(8, NV); }                                                              \
            else if (M >= 4) { m = 4; TILE(4, NV); }                                                                  \
            else if (M >= 2) { m = 2; TILE(2, NV); }                                                                  \
            else { m = 1; TILE(1, NV); }                                                                              \
        }                                                                                                             \
    }
#if VL == 16
COLUMN(4, 6)
COLUMN(2, 12)
COLUMN(1, 12)
#else                                                // 16 registers: 12 of C, 2 of B, 1 of A
COLUMN(2, 6)
COLUMN(1, 12)
#endif

// N must be a multiple of GROUP; B and C are read and written in whole vectors. multiply_as is for constant sizes and strides.
INLINE void multiply_as(int M, int N, int rows, int run, const float *A, ptrdiff_t ai, ptrdiff_t ak, ptrdiff_t ar,
                     const float *B, ptrdiff_t bk, ptrdiff_t br, float *C, ptrdiff_t ldc, int add) {
#if VL == 16
    for (; N >= 64; N -= 64, B += 64, C += 64) column4(M, rows, run, A, ai, ak, ar, B, bk, br, C, ldc, add);
    for (; N >= 32; N -= 32, B += 32, C += 32) column2(M, rows, run, A, ai, ak, ar, B, bk, br, C, ldc, add);
    for (; N >= 16; N -= 16, B += 16, C += 16) column1(M, rows, run, A, ai, ak, ar, B, bk, br, C, ldc, add);
#else
    for (; N >= 2 * VL; N -= 2 * VL, B += 2 * VL, C += 2 * VL) column2(M, rows, run, A, ai, ak, ar, B, bk, br, C, ldc, add);
    if (N) column1(M, rows, run, A, ai, ak, ar, B, bk, br, C, ldc, add);
#endif
}

static void multiply(int M, int N, int rows, int run, const float *A, ptrdiff_t ai, ptrdiff_t ak, ptrdiff_t ar,
                     const float *B, ptrdiff_t bk, ptrdiff_t br, float *C, ptrdiff_t ldc, int add) {
    multiply_as(M, N, rows, run, A, ai, ak, ar, B, bk, br, C, ldc, add);
}

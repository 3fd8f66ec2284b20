// The product of large matrices, cut into blocks that fit the caches (Goto & van de Geijn 2008):
//
//     C[i][j] (+)= sum over k of A[i ai + k ak] * B[k bk + j bj]
//
// One of each pair of strides is 1, so either matrix may come transposed. A block of B, KC x NC, is copied ("packed") such
// that a register tile reads it from one address to the next, and stays in the second-level cache while all of A passes by;
// of A, MR rows at a time are packed and stay in the first-level cache while they meet the whole block. So each number that
// is fetched from main memory is used hundreds of times, each that comes from the second-level cache MR times.
// `gemm.h` has the tile for matrices that are in cache already.
#pragma once
#include "functions.h"

#ifdef BF16
#include "bf16.h"
#else
#if VL == 16
enum { MR = 12 };
#elif VL == 8
enum { MR = 6 };
#else
enum { MR = 4 };
#endif
enum { NR = 2 * VL, KC = 416, NC = 384, MATMUL_ROOM = KC * NC + KC * MR + 4 * VL };    // floats of scratch a thread

// dst[k][i] = A[i][k] for i < n <= width, zero for the rest of the width; `along` is the stride of k, `across` of i. Where
// width < VL, whole vectors are stored all the same: the next k overwrites what is too much, the last needs room.
INLINE void pack_panel(int K, int n, const int width, const float *A, ptrdiff_t across, ptrdiff_t along, float *dst) {
    int k = 0;
    if (across == 1 && n == width)
        for (; k < K; k++) memcpy(dst + (size_t)k * width, A + k * along, width * sizeof(float));
    if (along == 1)
        for (; k + VL <= K; k += VL)                              // blocks of VL x VL through registers
            for (int v = 0; v < width; v += VL) {
                vec r[VL];
                UNROLL for (int i = 0; i < VL; i++) r[i] = v + i < n ? load(A + (v + i) * across + k) : (vec){0};
                transpose(r);
                UNROLL for (int j = 0; j < VL; j++) store(dst + (size_t)(k + j) * width + v, r[j]);
            }
    for (; k < K; k++)
        for (int i = 0; i < width; i++) dst[(size_t)k * width + i] = i < n ? A[i * across + k * along] : 0;
}

// R x NR of C from packed panels; only m x n of it exist. C is asked for while the sum is still being computed.
INLINE void panel_product_of(const int R, int K, const float *a, const float *b, float *C, ptrdiff_t ldc, int m, int n,
                             int add) {
    vec acc[MR][2];
    UNROLL for (int i = 0; i < R; i++) acc[i][0] = acc[i][1] = (vec){0};
    for (int i = 0; i < m; i++) __builtin_prefetch(C + i * ldc, 1), __builtin_prefetch(C + i * ldc + VL, 1);
    for (int k = 0; k < K; k++, a += MR, b += NR) {
        vec w0 = load(b), w1 = load(b + VL);
        UNROLL for (int i = 0; i < R; i++) {
            acc[i][0] += a[i] * w0;
            acc[i][1] += a[i] * w1;
        }
    }
    if (m == R && n == NR) {
        UNROLL for (int i = 0; i < R; i++) {
            float *c = C + i * ldc;
            if (add) acc[i][0] += load(c), acc[i][1] += load(c + VL);
            store(c, acc[i][0]), store(c + VL, acc[i][1]);
        }
        return;
    }
    float t[MR][NR];
    UNROLL for (int i = 0; i < R; i++) store(t[i], acc[i][0]), store(t[i] + VL, acc[i][1]);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) C[i * ldc + j] = add ? C[i * ldc + j] + t[i][j] : t[i][j];
}

static void panel_product(int K, const float *a, const float *b, float *C, ptrdiff_t ldc, int m, int n, int add) {
    if (MR > 8 && m > 8) panel_product_of(MR, K, a, b, C, ldc, m, n, add);
    else if (MR > 4 && m > 4) panel_product_of(least(MR, 8), K, a, b, C, ldc, m, n, add);
    else panel_product_of(4, K, a, b, C, ldc, m, n, add);
}

// B (K, n) as panels of NR columns. Rows are read from end to end, which is what the memory likes.
static void pack_block(int K, int n, matrix B, float *dst) {
    int whole = B.column == 1 ? n / NR * NR : 0;
    for (int k = 0; whole && k < K; k++)
        for (int j = 0; j < whole; j += NR)
            memcpy(dst + (size_t)j * K + (size_t)k * NR, B.at + k * B.row + j, NR * sizeof(float));
    for (int j = whole; j < n; j += NR)
        pack_panel(K, least(NR, n - j), NR, B.at + j * B.column, B.column, B.row, dst + (size_t)j * K);
}

// Ask for the part-th of `parts` of the cache lines of A (m, K): the next panel comes while this one is used.
static void expect(int m, int K, matrix A, int part, int parts) {
    int rows = A.column == 1 ? m : K, line = 16, lines = A.column == 1 ? (K + line - 1) / line : 1;
    ptrdiff_t stride = A.column == 1 ? A.row : A.column;
    for (int i = rows * part / parts; i < rows * (part + 1) / parts; i++)
        for (int k = 0; k < lines; k++) __builtin_prefetch(A.at + i * stride + k * line, 0, 2);
}

// On one thread, with its own room of MATMUL_ROOM floats.
static void matmul(int M, int N, int K, matrix A, matrix B, float *C, ptrdiff_t ldc, int add, float *room) {
    float *panel = room + (size_t)KC * NC;
    int sums = (K + KC - 1) / KC, step = up((K + sums - 1) / sums, VL);           // about equal parts of the sum
    for (int j0 = 0; j0 < N; j0 += NC)
        for (int k0 = 0; k0 < K; k0 += step) {
            int kc = least(step, K - k0), nc = least(NC, N - j0), parts = (nc + NR - 1) / NR;
            pack_block(kc, nc, (matrix){B.at + k0 * B.row + j0 * B.column, B.row, B.column}, room);
            for (int i = 0; i < M; i += MR) {
                matrix a = {A.at + i * A.row + k0 * A.column, A.row, A.column}, next = {a.at + MR * A.row, A.row, A.column};
                int m = least(MR, M - i), more = least(MR, M - i - m);
                pack_panel(kc, m, MR, a.at, a.row, a.column, panel);
                for (int j = 0; j < parts; j++) {
                    if (more > 0) expect(more, kc, next, j, parts);
                    panel_product(kc, panel, room + (size_t)j * NR * kc, C + i * ldc + j0 + j * NR, ldc, m,
                                  least(NR, nc - j * NR), add || k0);
                }
            }
        }
}

#endif

// The same, shared among threads by columns or, where these are few, by rows of C. The order of each sum is the same
// for any number of threads.
static void matmul_shared(int M, int N, int K, matrix A, matrix B, float *C, ptrdiff_t ldc, int add,
                          int t, int threads, float *room) {
    int from, to;
    if (N >= 4 * NR * threads || N >= M) {
        share((N + NR - 1) / NR, t, threads, &from, &to);
        from *= NR, to = least(N, to * NR);
        B.at += from * B.column;
        if (from < to) matmul(M, to - from, K, A, B, C + from, ldc, add, room);
    } else {
        share((M + MR - 1) / MR, t, threads, &from, &to);
        from *= MR, to = least(M, to * MR);
        A.at += from * A.row;
        if (from < to) matmul(to - from, N, K, A, B, C + from * ldc, ldc, add, room);
    }
}

// Products whose factors are bfloat16, the upper 16 bits of a float32, and whose sums are float32; rounding is to nearest,
// halves to even, and denormal factors count as zero.
//
// A register of AVX-512 takes pairs: in one instruction (vdpbf16ps) each of 16 sums gets two products, those of neighbouring
// numbers of the left factor's row with the two numbers that lie one below the other in the right factor. So
//
//     left     rows of numbers as they come:           a[i][0] a[i][1] a[i][2] ...
//     right    panels of 16 columns, pair by pair:     b[0][0] b[1][0]  b[0][1] b[1][1]  ...  b[0][15] b[1][15],  b[2][0] ...
//
// The tile unit (AMX) multiplies a tile of 16 rows of 32 numbers with one of 16 such rows of pairs, 8192 multiply-adds, in as
// many cycles as the tile on the left has rows: 16 times as many as a register can. It wants the same two layouts.
#pragma once
#include "functions.h"

typedef uint16_t half;

INLINE size_t halves(size_t n) { return (n + 1) / 2; }                        // floats that hold n of them

// 16 + 16 floats, those of a first; and [a0 b0 a1 b1 ...]: one number of each in turn.
INLINE vec side_by_side(vec a, vec b) { return (vec)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a); }
INLINE vec in_turn(vec both) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
                                           23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (vec)_mm512_permutexvar_epi16(order, (__m512i)both);
}
INLINE void store_halves(half *p, vec v, int n) {                             // the first n of 16
    __m256i h = (__m256i)_mm512_cvtneps_pbh((__m512)v);
    if (n >= VL) _mm256_storeu_si256((__m256i *)p, h);
    else _mm256_mask_storeu_epi16(p, (1 << most(0, n)) - 1, h);
}

// One tile: of 16 items, `across` apart, n of which exist, the numbers 0 .. 31, `along` apart, K of which exist; zeros for
// those that do not. For the left factor a row for each item, `row` halves apart; for the right one 16 rows of pairs.
INLINE void pack_tile(int n, int K, const float *S, ptrdiff_t across, ptrdiff_t along, int right, half *dst, ptrdiff_t row) {
    vec r[VL];
    if (along == 1)
        UNROLL for (int i = 0; i < VL; i++)
            r[i] = i < n ? side_by_side(load_n(S + i * across, K), load_n(S + i * across + VL, K - VL)) : (vec){0};
    else
        UNROLL for (int p = 0; p < VL; p++) {
            vec a = 2 * p < K ? load_n(S + 2 * p * along, n) : (vec){0};
            vec b = 2 * p + 1 < K ? load_n(S + (2 * p + 1) * along, n) : (vec){0};
            r[p] = in_turn(side_by_side(a, b));
        }
    if ((along == 1) == right) transpose(r);                                  // of 32-bit words: pairs stay together
    UNROLL for (int i = 0; i < VL; i++) store((float *)(dst + i * row), r[i]);
}
// The same for any K: tile by tile, to the next multiple of 32 numbers.
static void pack_rows(int n, int K, const float *S, ptrdiff_t across, ptrdiff_t along, int right, half *dst, ptrdiff_t row) {
    for (int k = 0; k < K; k += 2 * VL, S += 2 * VL * along, dst += right ? 2 * VL * VL : 2 * VL)
        pack_tile(n, K - k, S, across, along, right, dst, right ? 2 * VL : row);
}

// ---- products ----

// The left factor: rows `row` halves apart, which consist of `runs` runs of K numbers, `run` halves apart; the right one:
// panels `panel` halves apart, of the same runs, 16 K halves a run unless `run` says otherwise. K is even.
typedef struct { const half *at; ptrdiff_t row, run; } left_factor;
typedef struct { const half *at; ptrdiff_t panel, run; } right_factor;

extern int emonet_tiles;                             // of dispatch.c

// R rows and V panels in registers, as gemm.h's tile.
INLINE void register_product(const int R, const int V, int runs, int K, left_factor A, right_factor B, float *C, ptrdiff_t ldc, int add) {
    vec acc[12][2];
    UNROLL for (int i = 0; i < R; i++)
        UNROLL for (int v = 0; v < V; v++) acc[i][v] = add ? load(C + i * ldc + v * VL) : (vec){0};
    for (int r = 0; r < runs; r++) {
        const half *a = A.at + r * A.run, *b = B.at + r * B.run;
        for (int k = 0; k < K; k += 2, a += 2, b += 2 * VL) {
            vec w[2];
            UNROLL for (int v = 0; v < V; v++) w[v] = load((const float *)(b + v * B.panel));
            UNROLL for (int i = 0; i < R; i++) {
                __m512i pair = _mm512_set1_epi32(*(const int __attribute__((may_alias)) *)(a + i * A.row));
                UNROLL for (int v = 0; v < V; v++)
                    acc[i][v] = (vec)_mm512_dpbf16_ps((__m512)acc[i][v], (__m512bh)pair, (__m512bh)w[v]);
            }
        }
    }
    UNROLL for (int i = 0; i < R; i++)
        UNROLL for (int v = 0; v < V; v++) store(C + i * ldc + v * VL, acc[i][v]);
}
INLINE void registers_products(int M, const int V, int runs, int K, left_factor A, right_factor B, float *C, ptrdiff_t ldc, int add) {
    for (int m; M > 0; M -= m, A.at += m * A.row, C += m * ldc) {
        if (M >= 12 && M != 16) m = 12, register_product(12, V, runs, K, A, B, C, ldc, add);
        else if (M >= 8) m = 8, register_product(8, V, runs, K, A, B, C, ldc, add);
        else if (M >= 4) m = 4, register_product(4, V, runs, K, A, B, C, ldc, add);
        else m = 1, register_product(1, V, runs, K, A, B, C, ldc, add);
    }
}

// The compiler does not know which memory the instructions on tiles read: what it still has to store there, it stores here.
#define STORED __asm__ volatile("" ::: "memory")

// Tiles 0 to 3 are sums, 4 and 5 of the left factor, 6 and 7 of the right one, all of 16 rows but for `pairs` pairs.
static void set_tiles(int pairs) {
    struct { uint8_t palette, start, none[14]; uint16_t bytes[16]; uint8_t rows[16]; } config = {.palette = 1};
    for (int i = 0; i < 8; i++) config.bytes[i] = i == 4 || i == 5 ? 4 * pairs : 64, config.rows[i] = i >= 6 ? pairs : 16;
    STORED;
    _tile_loadconfig(&config);
}
// The sums of tile i: to C where all 16 rows exist, else the rows that do.
#define PUT(i, m, c) do {                                                                                             \
    if ((m) >= 16) { _tile_stored(i, c, ldc * sizeof(float)); break; }                                                \
    float t[16][16];                                                                                                  \
    _tile_stored(i, t, 64);                                                                                           \
    for (int k = 0; k < (m); k++) store((c) + k * ldc, load(t[k]));                                                   \
} while (0)
#define GET(i, m, c) do {                                                                                             \
    if (!add) { _tile_zero(i); break; }                                                                               \
    if ((m) >= 16) { _tile_loadd(i, c, ldc * sizeof(float)); break; }                                                 \
    float t[16][16] = {{0}};                                                                                          \
    for (int k = 0; k < (m); k++) store(t[k], load((c) + k * ldc));                                                   \
    STORED;                                                                                                           \
    _tile_loadd(i, t, 64);                                                                                            \
} while (0)
// R times 16 rows, of which m exist, and V panels, R V <= 4: a sum waits 52 cycles for its last term, and four take turns. Rows
// of A up to the next multiple of 16 R are read, and must be there. Tiles of sums: 0 1 over 2 3 for (2, 2), else in a line.
INLINE void tile_product(const int R, const int V, int m, int runs, int K, int pairs, left_factor A, right_factor B, float *C,
                         ptrdiff_t ldc, int add) {
    const int square = R == 2 && V == 2;
    float *C1 = V > 1 ? C + 16 : C + 16 * ldc, *C2 = square ? C + 16 * ldc : V > 1 ? C + 32 : C + 32 * ldc;
    float *C3 = square ? C2 + 16 : V > 1 ? C + 48 : C + 48 * ldc;
    int m1 = V > 1 ? m : m - 16, m2 = square ? m - 16 : V > 1 ? m : m - 32, m3 = square ? m2 : V > 1 ? m : m - 48;
    STORED;
    GET(0, m, C);
    if (R * V > 1) GET(1, m1, C1);
    if (R * V > 2) GET(2, m2, C2);
    if (R * V > 3) GET(3, m3, C3);
    for (int r = 0; r < runs; r++) {
        const half *a = A.at + r * A.run, *b = B.at + r * B.run;
        ptrdiff_t row = A.row * sizeof(half), a1 = 16 * A.row, b1 = B.panel;
        for (int k = 0; k < K; k += 2 * pairs, a += 2 * pairs, b += 32 * pairs) {
            _tile_loadd(4, a, row);
            _tile_loadd(6, b, 64);
            _tile_dpbf16ps(0, 4, 6);
            if (V > 1) _tile_loadd(7, b + b1, 64);
            if (V > 1) _tile_dpbf16ps(1, 4, 7);
            if (R > 1) _tile_loadd(5, a + a1, row);
            if (square) _tile_dpbf16ps(2, 5, 6);
            if (square) _tile_dpbf16ps(3, 5, 7);
            if (R > 1 && V == 1) _tile_dpbf16ps(1, 5, 6);
            if (R > 2) _tile_loadd(4, a + 2 * a1, row);
            if (R > 2) _tile_dpbf16ps(2, 4, 6);
            if (R > 3) _tile_loadd(5, a + 3 * a1, row);
            if (R > 3) _tile_dpbf16ps(3, 5, 6);
            if (V > 2) _tile_loadd(6, b + 2 * b1, 64);
            if (V > 2) _tile_dpbf16ps(2, 4, 6);
            if (V > 3) _tile_loadd(7, b + 3 * b1, 64);
            if (V > 3) _tile_dpbf16ps(3, 4, 7);
        }
    }
    PUT(0, m, C);
    if (R * V > 1) PUT(1, m1, C1);
    if (R * V > 2) PUT(2, m2, C2);
    if (R * V > 3) PUT(3, m3, C3);
}
#define TILES_OF(R, V) tile_product(R, V, M, runs, K, pairs, A, b, C + n, ldc, add)
static void tile_products(int M, int N, int runs, int K, int pairs, left_factor A, right_factor B, float *C, ptrdiff_t ldc, int add) {
    for (int m; M > 0; M -= m, A.at += m * A.row, C += m * ldc) {
        right_factor b = B;
        m = N == 16 ? 64 : M > 16 ? 32 : 16;
        for (int n = 0, v; n < N; n += 16 * v, b.at += v * B.panel) {
            v = least((N - n) / 16, m == 16 ? 4 : 2);
            if (m == 32 && v == 2) TILES_OF(2, 2);
            else if (m == 32) TILES_OF(2, 1);
            else if (m == 64 && M > 32) TILES_OF(4, 1);
            else if (m == 64 && M > 16) TILES_OF(2, 1);
            else if (v == 4) TILES_OF(1, 4);
            else if (v == 3) TILES_OF(1, 3);
            else if (v == 2) TILES_OF(1, 2);
            else TILES_OF(1, 1);
        }
    }
}

// Around products over runs of K, or of multiples of K. Returned is how many pairs a tile takes, 0 without tiles.
static int begin_products(int K) {
    int pairs = emonet_tiles ? least(16, K / 2) : 0;
    while (pairs && K / 2 % pairs) pairs--;
    if (pairs) set_tiles(pairs);
    return pairs;
}
static void end_products(int pairs) { if (pairs) _tile_release(); }

// C[i][j] (+)= sum over r < runs, k < K of A[i][r][k] B[r][k][j], i < M, j < N; N is a multiple of 16.
static void multiply_halves(int M, int N, int runs, int K, int pairs, left_factor A, right_factor B, float *C, ptrdiff_t ldc, int add) {
    if (pairs) { tile_products(M, N, runs, K, pairs, A, B, C, ldc, add); return; }
    int n = 0;
    for (; n + 2 * VL <= N; n += 2 * VL, B.at += 2 * B.panel) registers_products(M, 2, runs, K, A, B, C + n, ldc, add);
    if (n < N) registers_products(M, 1, runs, K, A, B, C + n, ldc, add);
}

// ---- products of large float32 matrices, rounded while they are packed, as matmul.h's ----

enum { MR = 32, NR = 32, KC = 512, NC = 512, LEFT_ROW = KC + 32, MATMUL_ROOM = KC * NC / 2 + MR * LEFT_ROW / 2 + 64 };

static void matmul(int M, int N, int K, matrix A, matrix B, float *C, ptrdiff_t ldc, int add, float *room) {
    half *block = (half *)room, *rows = block + (size_t)KC * NC;
    int pairs = begin_products(2 * VL);
    for (int j0 = 0; j0 < N; j0 += NC)
        for (int k0 = 0; k0 < K; k0 += KC) {
            int kc = least(KC, K - k0), nc = least(NC, N - j0), run = up(kc, 2 * VL), whole = nc / VL * VL;
            left_factor a = {rows, LEFT_ROW, 0};
            right_factor b = {block, (ptrdiff_t)VL * run, 0};
            for (int j = 0; j < nc; j += VL)
                pack_rows(least(VL, nc - j), kc, B.at + k0 * B.row + (j0 + j) * B.column, B.column, B.row, 1, block + (size_t)j * run, 0);
            for (int i = 0; i < M; i += MR) {
                int m = least(MR, M - i);
                float *c = C + i * ldc + j0;
                for (int r = 0; r < m; r += VL)
                    pack_rows(least(VL, m - r), kc, A.at + (i + r) * A.row + k0 * A.column, A.row, A.column, 0,
                              rows + r * LEFT_ROW, LEFT_ROW);
                if (whole) multiply_halves(m, whole, 1, run, pairs, a, b, c, ldc, add || k0);
                if (whole == nc) continue;
                float t[MR][VL];
                right_factor rest = {block + (size_t)whole * run, 0, 0};
                multiply_halves(m, VL, 1, run, pairs, a, rest, t[0], VL, 0);
                for (int r = 0; r < m; r++) {
                    float *p = c + r * ldc + whole;
                    vec sum = load(t[r]);
                    if (add || k0) sum += load_n(p, nc - whole);
                    store_n(p, sum, nc - whole);
                }
            }
        }
    end_products(pairs);
}

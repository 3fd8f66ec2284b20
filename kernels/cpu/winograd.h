// F(4x4, 3x3): a tile of 4 x 4 outputs of a 3x3 convolution from 6 x 6 inputs with 36 products instead of 144.
//
//     Y = A^T [ (G g G^T) * (B^T d B) ] A          (Lavin & Gray 2016, section 4.3)
//
// with * elementwise; summed over channels it is one small matrix product for each of the 36 points. The gradients are
// the adjoints of the same maps: dg = G^T [ (B^T d B) * (A dY A^T) ] G for the filters, and the same convolution with
// the filters turned round for the input. Every function below works on VL channels at once; the tile's rows and
// columns are separate vectors, so a transform is adds and multiply-adds without a shuffle.
#pragma once
#include "gemm.h"

INLINE void input_1d(const vec d[6], vec o[6]) {                   // B^T d
    vec a = d[4] - 4 * d[2], b = d[3] - 4 * d[1], c = d[4] - d[2], e = 2 * (d[3] - d[1]);
    o[0] = 4 * d[0] - 5 * d[2] + d[4];
    o[1] = a + b;
    o[2] = a - b;
    o[3] = c + e;
    o[4] = c - e;
    o[5] = 4 * d[1] - 5 * d[3] + d[5];
}
INLINE void output_1d(const vec m[6], vec y[4]) {                  // A^T m
    vec a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], e = m[3] - m[4];
    y[0] = m[0] + a + c;
    y[1] = b + 2 * e;
    y[2] = a + 4 * c;
    y[3] = b + 8 * e + m[5];
}
INLINE void gradient_1d(const vec y[4], vec m[6]) {                // A y
    vec a = y[0] + y[2], b = y[1] + y[3], c = y[0] + 4 * y[2], e = 2 * y[1] + 8 * y[3];
    m[0] = y[0];
    m[1] = a + b;
    m[2] = a - b;
    m[3] = c + e;
    m[4] = c - e;
    m[5] = y[3];
}
INLINE void filter_1d(const vec g[3], vec u[6]) {                  // G g
    vec a = (g[0] + g[2]) * (1.f / 6), b = g[1] * (1.f / 6), c = g[0] * (1.f / 24) + g[2] * (1.f / 6), e = g[1] * (1.f / 12);
    u[0] = g[0] * 0.25f;
    u[1] = -a - b;
    u[2] = b - a;
    u[3] = c + e;
    u[4] = c - e;
    u[5] = g[2];
}
INLINE void filter_gradient_1d(const vec u[6], vec g[3]) {         // G^T u
    vec a = (u[1] + u[2]) * (1.f / 6), b = (u[2] - u[1]) * (1.f / 6), c = u[3] + u[4], e = u[3] - u[4];
    g[0] = u[0] * 0.25f - a + c * (1.f / 24);
    g[1] = b + e * (1.f / 12);
    g[2] = c * (1.f / 6) - a + u[5];
}

// The two-dimensional maps of filters: columns first, then rows. `in` points at the tile's corner; neighbours along a row lie
// `col` floats apart, rows `row`; the 36 results lie `xi` apart.
#define MAP_2D(name, SIZE, POINTS, map)                                                                               \
    INLINE void name(const float *in, ptrdiff_t row, ptrdiff_t col, float *out, ptrdiff_t out_row, ptrdiff_t out_col) { \
        vec half[POINTS][SIZE];                                                                                       \
        UNROLL for (int j = 0; j < SIZE; j++) {                                                                       \
            vec line[SIZE], image[POINTS];                                                                            \
            UNROLL for (int i = 0; i < SIZE; i++) line[i] = load(in + i * row + j * col);                             \
            map(line, image);                                                                                         \
            UNROLL for (int i = 0; i < POINTS; i++) half[i][j] = image[i];                                            \
        }                                                                                                             \
        UNROLL for (int i = 0; i < POINTS; i++) {                                                                     \
            vec image[POINTS];                                                                                        \
            map(half[i], image);                                                                                      \
            UNROLL for (int j = 0; j < POINTS; j++) store(out + i * out_row + j * out_col, image[j]);                 \
        }                                                                                                             \
    }
MAP_2D(filter_transform, 3, 6, filter_1d)
MAP_2D(filter_gradient_transform, 6, 3, filter_gradient_1d)

// U (36, F / VL, C, VL) from filters (3, 3, C, F), for the input channels from .. to - 1; F a multiple of GROUP. Panels of
// VL output channels, because that is how products() reads it.
static void transform_filters(const float *W, int C, int F, int from, int to, float *U) {
    ptrdiff_t size = (ptrdiff_t)C * F;
    for (int c = from; c < to; c++)
        for (int f = 0; f < F; f += VL) {
            ptrdiff_t k = (ptrdiff_t)c * F + f;
            filter_transform(W + k, 3 * size, size, U + (ptrdiff_t)f * C + c * VL, 6 * size, size);
        }
}

// A band of G images of down x across tiles, counted row by row.
typedef struct { int count, across, down; } tiles;
INLINE ptrdiff_t tile_offset(const tiles *t, int k, ptrdiff_t row, ptrdiff_t col, ptrdiff_t image) {
    int g = k / (t->across * t->down), rest = k % (t->across * t->down);
    return g * image + rest / t->across * 4 * row + rest % t->across * 4 * col;
}

// Tiles are taken in batches of n <= BATCH, and a batch in six slices, one for each row of the 6 x 6 points, so that what
// is multiplied was transformed just before and is still in the first-level cache. Scratch memory for both functions:
enum { BATCH = 24 };
INLINE size_t winograd_scratch(int C, int F) { return (size_t)BATCH * (36 + 6) * C + (size_t)(BATCH * (24 + 6) + 3) * most(C, F); }

// H (6, columns, C) = B^T d of all columns of the tiles first .. first + n - 1; neighbours share two of their six.
// start[k]: the first column of tile k in H. Returns the number of columns.
static int input_columns(const tiles *t, int first, int n, const float *band, int C, ptrdiff_t row, ptrdiff_t image,
                         int start[BATCH], float *H) {
    int columns = 0;
    for (int k = 0; k < n; k++) {
        start[k] = k && (first + k) % t->across ? start[k - 1] + 4 : columns;
        columns = start[k] + 6;
    }
    for (int k = 0, run; k < n; k += run) {
        run = least(n - k, t->across - (first + k) % t->across);
        const float *p = band + tile_offset(t, first + k, row, C, image);
        float *h = H + (ptrdiff_t)start[k] * C;
        for (int x = 0; x < (4 * run + 2) * C; x += VL) {
            vec d[6], o[6];
            UNROLL for (int i = 0; i < 6; i++) d[i] = load(p + i * row + x);
            input_1d(d, o);
            UNROLL for (int i = 0; i < 6; i++) store(h + (ptrdiff_t)i * columns * C + x, o[i]);
        }
    }
    return columns;
}

// V (6, BATCH, C) = (B^T d B)[i]: one row of H, already at its slice, along each tile's six columns.
INLINE void input_rows(const float *H, const int *start, int n, const int C, float *V) {
    for (int k = 0; k < n; k++)
        for (int c = 0; c < C; c += VL) {
            const float *h = H + (ptrdiff_t)start[k] * C + c;
            float *v = V + k * C + c;
            vec d[6], o[6];
            UNROLL for (int j = 0; j < 6; j++) d[j] = load(h + j * C);
            input_1d(d, o);
            UNROLL for (int j = 0; j < 6; j++) store(v + j * BATCH * C, o[j]);
        }
}

// y (4) = M A of one row of points for `count` tiles: m[j] = sum over c of V[j][c] U[j][c], kept in registers, then A.
INLINE void products(const int count, const int C, const float *V, const float *U, ptrdiff_t point, float *half, ptrdiff_t F,
                     ptrdiff_t column) {
    vec m[4][6];
    UNROLL for (int k = 0; k < count; k++)
        UNROLL for (int j = 0; j < 6; j++) m[k][j] = (vec){0};
    for (int c = 0; c < C; c++, V++, U += VL)
        UNROLL for (int j = 0; j < 6; j++) {
            vec u = load(U + j * point);
            UNROLL for (int k = 0; k < count; k++) m[k][j] += V[(j * BATCH + k) * C] * u;
        }
    UNROLL for (int k = 0; k < count; k++) {
        vec y[4];
        output_1d(m[k], y);
        UNROLL for (int q = 0; q < 4; q++) store(half + k * F + q * column, y[q]);
    }
}

// half (6, 4, BATCH, F) = M A for the tiles first .. first + n - 1, M = (B^T d B) * U summed over channels: all but the last
// step of their convolution, A^T half. Returns half, somewhere in scratch.
INLINE void winograd_half_as(const int C, const int F, const tiles *t, int first, int n, const float *band, const float *U,
                             float *scratch) {
    ptrdiff_t in_row = (ptrdiff_t)(4 * t->across + 2) * C, in_image = (4 * t->down + 2) * in_row;
    float *H = scratch, *V = H + BATCH * 36 * C, *half = V + BATCH * 6 * C;
    int start[BATCH];
    ptrdiff_t slice = (ptrdiff_t)input_columns(t, first, n, band, C, in_row, in_image, start, H) * C;
    enum { TILES = VL == 16 ? 4 : 2 };
    // So few tiles at once that transforms and products overlap in the processor, but enough for each pass over U.
    const int chunk = C <= 16 ? TILES : C <= 32 ? 12 : BATCH;
    for (int i = 0; i < 6; i++)
        for (int from = 0, to; from < n; from = to) {
            to = least(n, from + chunk);
            input_rows(H + i * slice, start + from, to - from, C, V);
            for (int f = 0; f < F; f += VL) {
                const float *u = U + (ptrdiff_t)6 * i * C * F + f * C;
                float *h = half + i * 4 * BATCH * F + f;
                int k = from;
                for (; k + TILES <= to; k += TILES) products(TILES, C, V + (k - from) * C, u, C * F, h + k * F, F, BATCH * F);
                for (; k < to; k++) products(1, C, V + (k - from) * C, u, C * F, h + k * F, F, BATCH * F);
            }
        }
}

// Constant sizes become constant offsets in the machine's instructions; the usual ones get a copy each.
#define FOR_USUAL_SIZES(C, F, function, ...)                                                                          \
    do {                                                                                                              \
        if (GROUP == 8 && C == 8 && F == 8) function(8, 8, __VA_ARGS__);                                              \
        else if (C == 16 && F == 16) function(16, 16, __VA_ARGS__);                                                        \
        else if (C == 32 && F == 32) function(32, 32, __VA_ARGS__);                                                   \
        else if (C == 64 && F == 64) function(64, 64, __VA_ARGS__);                                                   \
        else function(C, F, __VA_ARGS__);                                                                             \
    } while (0)

static const float *winograd_half(const tiles *t, int first, int n, const float *band, int C, const float *U, int F,
                                  float *scratch) {
    FOR_USUAL_SIZES(C, F, winograd_half_as, t, first, n, band, U, scratch);
    return scratch + BATCH * 42 * C;
}

// Column q of the 4 x 4 outputs of tile k of its batch, for channels f ...
INLINE void output_column(const float *half, int k, int q, int f, int F, vec y[4]) {
    const float *h = half + (q * BATCH + k) * F + f;
    vec m[6];
    UNROLL for (int i = 0; i < 6; i++) m[i] = load(h + i * 4 * BATCH * F);
    output_1d(m, y);
}

INLINE void winograd_filters_as(const int C, const int F, const tiles *t, const float *band, const float *dy,
                                ptrdiff_t dy_row, ptrdiff_t dy_image, float *dU, float *scratch) {
    ptrdiff_t in_row = (ptrdiff_t)(4 * t->across + 2) * C, in_image = (4 * t->down + 2) * in_row;
    float *H = scratch, *V = H + BATCH * 36 * C, *M = V + BATCH * 6 * C, *half = M + BATCH * 6 * F;
    int start[BATCH];
    for (int first = 0; first < t->count; first += BATCH) {
        int n = least(BATCH, t->count - first);
        ptrdiff_t slice = (ptrdiff_t)input_columns(t, first, n, band, C, in_row, in_image, start, H) * C;
        for (int k = 0; k < n; k++) {                              // half (6, 4, BATCH, F) = A dy
            const float *d = dy + tile_offset(t, first + k, dy_row, F, dy_image);
            for (int f = 0; f < F; f += VL)
                for (int q = 0; q < 4; q++) {
                    float *h = half + (q * BATCH + k) * F + f;
                    vec y[4], m[6];
                    UNROLL for (int i = 0; i < 4; i++) y[i] = load(d + i * dy_row + q * F + f);
                    gradient_1d(y, m);
                    UNROLL for (int i = 0; i < 6; i++) store(h + i * 4 * BATCH * F, m[i]);
                }
        }
        for (int i = 0; i < 6; i++) {
            input_rows(H + i * slice, start, n, C, V);
            const float *h = half + i * 4 * BATCH * F;
            for (int x = 0; x < n * F; x += VL) {                  // M (6, BATCH, F) = half A^T
                vec y[4], m[6];
                UNROLL for (int q = 0; q < 4; q++) y[q] = load(h + x + q * BATCH * F);
                gradient_1d(y, m);
                UNROLL for (int j = 0; j < 6; j++) store(M + x + j * BATCH * F, m[j]);
            }
            for (int j = 0; j < 6; j++)
                multiply_as(C, F, 1, n, V + j * BATCH * C, 1, C, 0, M + j * BATCH * F, F, 0, dU + (ptrdiff_t)(6 * i + j) * C * F, F, 1);
        }
    }
}

// dU (36, C, F) += for band as above and dy (G, dy_rows, dy_width, F), whose first tile starts at dy: beyond the image
// dy must hold zeros.
static void winograd_filters(const tiles *t, const float *band, int C, const float *dy, int F, ptrdiff_t dy_row,
                             ptrdiff_t dy_image, float *dU, float *scratch) {
    FOR_USUAL_SIZES(C, F, winograd_filters_as, t, band, dy, dy_row, dy_image, dU, scratch);
}

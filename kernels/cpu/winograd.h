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

// The two-dimensional maps: columns first, then rows. `in` points at the tile's corner; neighbours along a row lie
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
MAP_2D(input_transform, 6, 6, input_1d)
MAP_2D(output_transform, 6, 4, output_1d)
MAP_2D(gradient_transform, 4, 6, gradient_1d)
MAP_2D(filter_transform, 3, 6, filter_1d)
MAP_2D(filter_gradient_transform, 6, 3, filter_gradient_1d)

// U (36, C, F) from filters (3, 3, C, F), for the input channels from .. to - 1; F a multiple of 16.
static void transform_filters(const float *W, int C, int F, int from, int to, float *U) {
    ptrdiff_t size = (ptrdiff_t)C * F;
    for (ptrdiff_t k = (ptrdiff_t)from * F; k < (ptrdiff_t)to * F; k += VL)
        filter_transform(W + k, 3 * size, size, U + k, 6 * size, size);
}

// A band of G images of rows x width tiles: tile t lies at offset tile_offset(t).
typedef struct { int count, across, down; } tiles;
INLINE ptrdiff_t tile_offset(const tiles *t, int k, ptrdiff_t row, ptrdiff_t col, ptrdiff_t image) {
    int g = k / (t->across * t->down), rest = k % (t->across * t->down);
    return g * image + rest / t->across * 4 * row + rest % t->across * 4 * col;
}

enum { BATCH = 24 };                                               // tiles that are multiplied together

// out (G, 4 down, 4 across, F) = the convolution of band (G, 4 down + 2, 4 across + 2, C) with U (36, C, F).
// V and M: scratch for 36 BATCH C and 36 BATCH F floats.
static void winograd_forward(const tiles *t, const float *band, int C, const float *U, int F, float *out, float *V, float *M) {
    ptrdiff_t in_row = (ptrdiff_t)(4 * t->across + 2) * C, in_image = (4 * t->down + 2) * in_row;
    ptrdiff_t out_row = (ptrdiff_t)4 * t->across * F, out_image = 4 * t->down * out_row;
    for (int first = 0; first < t->count; first += BATCH) {
        int n = least(BATCH, t->count - first);
        for (int k = 0; k < n; k++) {
            const float *p = band + tile_offset(t, first + k, in_row, C, in_image);
            for (int c = 0; c < C; c += VL) input_transform(p + c, in_row, C, V + k * C + c, 6 * n * C, n * C);
        }
        for (int xi = 0; xi < 36; xi++)
            multiply(n, F, 1, C, V + (ptrdiff_t)xi * n * C, C, 1, 0, U + (ptrdiff_t)xi * C * F, F, 0,
                     M + (ptrdiff_t)xi * n * F, F, 0);
        for (int k = 0; k < n; k++) {
            float *p = out + tile_offset(t, first + k, out_row, F, out_image);
            for (int f = 0; f < F; f += VL) output_transform(M + k * F + f, 6 * n * F, n * F, p + f, out_row, F);
        }
    }
}

// dU (36, C, F) += for band as above and dy (G, dy_rows, dy_width, F), whose first tile starts at dy: beyond the image
// dy must hold zeros.
static void winograd_filters(const tiles *t, const float *band, int C, const float *dy, int F, ptrdiff_t dy_row,
                             ptrdiff_t dy_image, float *dU, float *V, float *M) {
    ptrdiff_t in_row = (ptrdiff_t)(4 * t->across + 2) * C, in_image = (4 * t->down + 2) * in_row;
    for (int first = 0; first < t->count; first += BATCH) {
        int n = least(BATCH, t->count - first);
        for (int k = 0; k < n; k++) {
            const float *p = band + tile_offset(t, first + k, in_row, C, in_image);
            const float *d = dy + tile_offset(t, first + k, dy_row, F, dy_image);
            for (int c = 0; c < C; c += VL) input_transform(p + c, in_row, C, V + k * C + c, 6 * n * C, n * C);
            for (int f = 0; f < F; f += VL) gradient_transform(d + f, dy_row, F, M + k * F + f, 6 * n * F, n * F);
        }
        for (int xi = 0; xi < 36; xi++)
            multiply(C, F, 1, n, V + (ptrdiff_t)xi * n * C, 1, C, 0, M + (ptrdiff_t)xi * n * F, F, 0,
                     dU + (ptrdiff_t)xi * C * F, F, 1);
    }
}

// 3x3 convolution, version 3 of 4: a tile of outputs in registers. Arguments as in conv_1.c.
//
// What is new: PIXELS neighbouring outputs of 2 VL channels are summed over all taps before anything is
// written. x is copied with its border of zeros first, and the filters with zeros up to whole tiles, so that
// the inner loop asks no questions. With channels last the three pixels under a filter row are 3 C numbers in
// a row, so one tile is
//     sum[m][f] = sum over p < 3, k < 3 C of  x[i + p][(j + m) C + k] W[p][k][f]
// Why it is faster: a step loads two vectors of filters and PIXELS numbers of x and does 2 PIXELS
// multiply-adds, with no store at all; and 2 PIXELS sums that wait for nothing of each other fill the gap
// behind each of them.
// What limits it: with 32 filters and more mostly the multipliers, so the next gain has to come from fewer
// multiplications: conv_4.c. With 16 filters half of an AVX-512 tile is zeros; what ships has a second tile
// for that.

#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
enum { VL = 16, PIXELS = 12 };                    // 24 sums in 32 registers
#elif defined(__AVX__)
enum { VL = 8, PIXELS = 6 };                      // 12 sums in 16 registers
#else
enum { VL = 4, PIXELS = 6 };
#endif
typedef float vec __attribute__((vector_size(4 * VL), aligned(4), may_alias));
enum { TILE = 2 * VL };

// y: `valid` pixels, F apart, of `channels` outputs; xs: the row above, padded; w: this tile's filters.
static void tile(int C, const float *xs, long row, const float *w, int valid, int channels, int F,
                 float *y) {
    vec sum[PIXELS][2] = {0};
    for (int p = 0; p < 3; p++, xs += row)
        for (int k = 0; k < 3 * C; k++, w += TILE) {
            vec w0 = *(const vec *)w, w1 = *(const vec *)(w + VL);
#pragma GCC unroll 12
            for (int m = 0; m < PIXELS; m++) {
                float number = xs[m * C + k];
                sum[m][0] += number * w0;
                sum[m][1] += number * w1;
            }
        }
    for (int m = 0; m < valid; m++) memcpy(y + (long)m * F, sum[m], channels * sizeof(float));
}

void conv3x3(int N, int H, int W, int C, int F, const float *x, const float *filters, float *y) {
    int tiles = (F + TILE - 1) / TILE;
    long row = (long)(W + 2 + PIXELS) * C;        // a tile may read behind the last pixel
    float *padded = calloc((H + 2) * row, sizeof(float));
    float *packed = calloc(9L * C * tiles * TILE, sizeof(float));
    for (int k = 0; k < 9 * C; k++)
        for (int f = 0; f < F; f++)
            packed[((long)(f / TILE) * 9 * C + k) * TILE + f % TILE] = filters[(long)k * F + f];
    for (int n = 0; n < N; n++) {
        for (int i = 0; i < H; i++)
            memcpy(padded + (i + 1) * row + C, x + ((long)n * H + i) * W * C, (long)W * C * sizeof(float));
        for (int i = 0; i < H; i++)
            for (int j = 0; j < W; j += PIXELS)
                for (int t = 0; t < tiles; t++) {
                    int valid = W - j < PIXELS ? W - j : PIXELS;
                    int channels = F - t * TILE < TILE ? F - t * TILE : TILE;
                    tile(C, padded + i * row + (long)j * C, row, packed + (long)t * 9 * C * TILE, valid,
                         channels, F, y + (((long)n * H + i) * W + j) * F + t * TILE);
                }
    }
    free(padded);
    free(packed);
}

// 3x3 convolution, version 2 of 4: the same sums with f innermost. Arguments as in conv_1.c.
//
// What is new: the order of the loops, and `restrict`, the promise that y overlaps nothing. F sums now grow
// side by side.
// Why it is faster: neighbours in the inner loop are neighbours in filters and in y and wait for nothing but
// themselves, so the compiler makes vectors of 4, 8 or 16 of them. No sum changes its order: the result is
// still that of version 1, but for the products that are not rounded on their own where there is a fused
// multiply-add.
// What limits it: the sums live in memory. Each multiply-add loads a vector of filters and one of y and
// stores that of y again, and what has been stored must come back before the next tap can go on. The
// multipliers wait for that.

#include <string.h>

void conv3x3(int N, int H, int W, int C, int F, const float *restrict x, const float *restrict filters,
             float *restrict y) {
    for (int n = 0; n < N; n++)
        for (int i = 0; i < H; i++)
            for (int j = 0; j < W; j++, y += F) {
                memset(y, 0, F * sizeof(float));
                for (int p = 0; p < 3; p++)
                    for (int q = 0; q < 3; q++) {
                        int r = i + p - 1, s = j + q - 1;
                        if (r < 0 || r >= H || s < 0 || s >= W) continue;
                        const float *pixel = x + (((long)n * H + r) * W + s) * C;
                        const float *w = filters + (p * 3 + q) * C * F;
                        for (int c = 0; c < C; c++, w += F)
                            for (int f = 0; f < F; f++) y[f] += pixel[c] * w[f];
                    }
            }
}

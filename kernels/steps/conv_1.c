// 3x3 convolution, version 1 of 4: the formula.
//
//     y[n, i, j, f] = sum over p, q, c of  x[n, i + p - 1, j + q - 1, c] W[p, q, c, f]
//     with x = 0 outside of the image
//
// x (N, H, W, C), filters (3, 3, C, F), y (N, H, W, F), overwritten.
//
// What is new: nothing yet. Every other version must give these numbers.
// What limits it: an addition takes about four cycles, and each waits for the one before it in the same sum;
// the compiler may not change their order, because rounding would change. The filters are read F floats
// apart, so there is nothing to do for a vector of neighbours, either.

void conv3x3(int N, int H, int W, int C, int F, const float *x, const float *filters, float *y) {
    for (int n = 0; n < N; n++)
        for (int i = 0; i < H; i++)
            for (int j = 0; j < W; j++)
                for (int f = 0; f < F; f++) {
                    float sum = 0;
                    for (int p = 0; p < 3; p++)
                        for (int q = 0; q < 3; q++) {
                            int r = i + p - 1, s = j + q - 1;
                            if (r < 0 || r >= H || s < 0 || s >= W) continue;
                            const float *pixel = x + (((long)n * H + r) * W + s) * C;
                            const float *w = filters + (p * 3 + q) * C * F + f;
                            for (int c = 0; c < C; c++) sum += pixel[c] * w[c * F];
                        }
                    y[(((long)n * H + i) * W + j) * F + f] = sum;
                }
}

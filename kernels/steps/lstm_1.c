// LSTM, version 1 of 4: the formula.
//
//     a = x W_ih + h W_hh + b
//     c <- sigmoid(a_f) c + sigmoid(a_i) tanh(a_g)        h <- sigmoid(a_o) tanh(c)
//
// x (T, N, D), W_ih (D, 4H), W_hh (H, 4H), b (4H), gates in the order i f g o; h and c (N, H) are overwritten
// by the state T steps later. T = 1 is one step of the cell.
//
// What is new: nothing yet. Every other version must give these numbers.
// What limits it: each sum waits for its last addition, as in conv_1.c, and walks down a column of the
// weights: neighbours in a sum are 16 H bytes apart, so each number costs a cache line of 16.

#include <math.h>
#include <string.h>

static float sigmoid(float a) { return 1 / (1 + expf(-a)); }

static void step(int N, int D, int H, const float *x, const float *W_ih, const float *W_hh, const float *b,
                 const float *h, float *c, float *next) {
    for (int n = 0; n < N; n++)
        for (int u = 0; u < H; u++) {
            float a[4];
            for (int q = 0; q < 4; q++) {
                a[q] = b[q * H + u];
                for (int k = 0; k < D; k++) a[q] += x[n * D + k] * W_ih[(k * 4 + q) * H + u];
                for (int k = 0; k < H; k++) a[q] += h[n * H + k] * W_hh[(k * 4 + q) * H + u];
            }
            float *cell = c + n * H + u;
            *cell = sigmoid(a[1]) * *cell + sigmoid(a[0]) * tanhf(a[2]);
            next[n * H + u] = sigmoid(a[3]) * tanhf(*cell);
        }
}

void lstm_forward(int T, int N, int D, int H, const float *x, const float *W_ih, const float *W_hh,
                  const float *b, float *h, float *c) {
    float next[N * H];                            // every unit reads the whole h of the step before
    for (int t = 0; t < T; t++, x += (long)N * D) {
        step(N, D, H, x, W_ih, W_hh, b, h, c, next);
        memcpy(h, next, sizeof next);
    }
}

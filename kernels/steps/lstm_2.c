// LSTM, version 2 of 4: both products row by row of the weights. Arguments as in lstm_1.c.
//
// What is new: the 4 H sums of a sequence grow side by side, over a row of the weights at a time, and ROWS
// sequences share each row while it is there.
// Why it is faster: rows are read in the order in which they lie, in whole cache lines, and once for ROWS
// sequences; and the compiler makes vectors of the inner loop, as in conv_2.c.
// What limits it: the sums, ROWS times 16 H bytes, lie in the first-level cache and are loaded and stored for
// every multiply-add. Behind the product, expf and tanhf take one number at a time.

#include <math.h>
#include <string.h>

enum { ROWS = 4 };

static float sigmoid(float a) { return 1 / (1 + expf(-a)); }

// a (rows, 4H) += v (rows, K) W (K, 4H)
static void add_product(int rows, int K, int H4, const float *restrict v, const float *restrict W,
                        float *restrict a) {
    for (int k = 0; k < K; k++, W += H4) {
        if (rows == ROWS)
            for (int j = 0; j < H4; j++)
                for (int r = 0; r < ROWS; r++) a[r * H4 + j] += v[r * K + k] * W[j];
        else
            for (int r = 0; r < rows; r++)
                for (int j = 0; j < H4; j++) a[r * H4 + j] += v[r * K + k] * W[j];
    }
}

static void step(int N, int D, int H, const float *x, const float *W_ih, const float *W_hh, const float *b,
                 float *h, float *c) {
    float a[ROWS * 4 * H];
    for (int n = 0; n < N; n += ROWS) {
        int rows = N - n < ROWS ? N - n : ROWS;
        for (int r = 0; r < rows; r++) memcpy(a + r * 4 * H, b, 4 * H * sizeof(float));
        add_product(rows, D, 4 * H, x + n * D, W_ih, a);
        add_product(rows, H, 4 * H, h + n * H, W_hh, a);
        for (int r = 0; r < rows; r++)
            for (int u = 0; u < H; u++) {         // these rows of h are not needed any more
                float *gates = a + r * 4 * H + u, *cell = c + (n + r) * H + u;
                *cell = sigmoid(gates[H]) * *cell + sigmoid(gates[0]) * tanhf(gates[2 * H]);
                h[(n + r) * H + u] = sigmoid(gates[3 * H]) * tanhf(*cell);
            }
    }
}

void lstm_forward(int T, int N, int D, int H, const float *x, const float *W_ih, const float *W_hh,
                  const float *b, float *h, float *c) {
    for (int t = 0; t < T; t++, x += (long)N * D) step(N, D, H, x, W_ih, W_hh, b, h, c);
}

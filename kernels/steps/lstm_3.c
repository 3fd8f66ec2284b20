// LSTM, version 3 of 4: sums in registers, gates right behind them. Arguments as in lstm_1.c.
//
// What is new: ROWS sequences x VL hidden units x all four gates are summed in registers over both products,
// and turned into h and c before they have been anywhere else, by tanh_of and sigmoid_of
// (kernels/cpu/functions.h), which compute VL numbers at once by a ratio of polynomials.
// Why it is faster: a step over k loads 4 vectors of weights and ROWS numbers for 4 ROWS multiply-adds, and
// stores nothing; a unit's four gates meet in one place, so a is never written; and there is
// no call for each single tanh.
// What limits it: the weights. Four strips, H floats apart, of each row are read, in every step and for every
// ROWS sequences anew, from the second-level cache or beyond; a step has too few sequences to make up for
// that.

#if defined(__AVX512F__)
#define VL 16
enum { ROWS = 6 };                                // 24 sums in 32 registers
#elif defined(__AVX__)
#define VL 8
enum { ROWS = 3 };                                // 12 sums in 16 registers
#else
#define VL 4
enum { ROWS = 3 };
#endif
#include "../cpu/functions.h"

// a[r][q] += sum over k of v[r][k] W[k][q H ...]; of the VL units only m exist.
INLINE void add_product(const float *const v[ROWS], int K, const float *W, int H, int m, vec a[ROWS][4]) {
    for (int k = 0; k < K; k++, W += 4 * H) {
        vec w[4];
        UNROLL for (int q = 0; q < 4; q++) w[q] = load_n(W + q * H, m);
        UNROLL for (int r = 0; r < ROWS; r++)
            UNROLL for (int q = 0; q < 4; q++) a[r][q] += v[r][k] * w[q];
    }
}

INLINE void units(int n, int u, int m, int N, int D, int H, const float *x, const float *W_ih,
                  const float *W_hh, const float *b, const float *h, float *c, float *next) {
    const float *rows_x[ROWS], *rows_h[ROWS];     // behind the last sequence, that one again
    vec a[ROWS][4];
    UNROLL for (int r = 0; r < ROWS; r++) {
        rows_x[r] = x + least(n + r, N - 1) * D, rows_h[r] = h + least(n + r, N - 1) * H;
        UNROLL for (int q = 0; q < 4; q++) a[r][q] = load_n(b + q * H + u, m);
    }
    add_product(rows_x, D, W_ih + u, H, m, a);
    add_product(rows_h, H, W_hh + u, H, m, a);
    UNROLL for (int r = 0; r < ROWS; r++) {
        if (n + r >= N) break;
        long at = (long)(n + r) * H + u;
        vec cell = sigmoid_of(a[r][1]) * load_n(c + at, m) + sigmoid_of(a[r][0]) * tanh_of(a[r][2]);
        store_n(c + at, cell, m);
        store_n(next + at, sigmoid_of(a[r][3]) * tanh_of(cell), m);
    }
}

void lstm_forward(int T, int N, int D, int H, const float *x, const float *W_ih, const float *W_hh,
                  const float *b, float *h, float *c) {
    float next[N * H];
    for (int t = 0; t < T; t++, x += (long)N * D) {
        for (int u = 0; u < H; u += VL)           // its strips stay in the cache while all sequences pass
            for (int n = 0; n < N; n += ROWS)
                if (H - u >= VL) units(n, u, VL, N, D, H, x, W_ih, W_hh, b, h, c, next);
                else units(n, u, H - u, N, D, H, x, W_ih, W_hh, b, h, c, next);
        memcpy(h, next, sizeof next);
    }
}

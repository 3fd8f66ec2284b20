// LSTM, version 4 of 4: what ships. Arguments as in lstm_1.c.
//
// What is new: it knows of more than one step (kernels/cpu/lstm.h). Only h W_hh waits for the step before, so
// x W_ih is one large product for all steps (matmul.h), blocked for the caches; W_hh is packed once into
// panels in the order in which the register tile reads them, and h is kept transposed, as the product wants
// it.
// Why it is faster: over many steps packing costs nothing, every weight is then read from the next address,
// and x W_ih reads W_ih once for many rows. For T = 1 all of this is a copy of the weights for one use, and
// version 3 is the faster one.
// What limits it: W_hh comes from the second-level cache in every step, and there are only N sequences to use
// it on. It also writes what backward needs, i f g o, c, tanh(c) and h of every step, which the versions
// before do not.
//
// This is the package's source under the package's switches, on one thread; see conv_4.c.

#if defined(__AVX512F__) && defined(__AVX512VL__) && defined(__AVX512DQ__) && defined(__AVX512BW__)
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")
#define VL 16
#elif defined(__AVX2__) && defined(__FMA__)
#pragma GCC target("avx2,fma")
#define VL 8
#else
#define VL 4
#endif
#define VARIANT step
#include "../cpu/lstm.h"
#include "../cpu/pool.c"

// n floats that are kept for the next call, as the package keeps what a step has freed.
static float *room(size_t n) {
    static float *kept;
    static size_t size;
    if (n > size) free(kept), kept = malloc(n * sizeof(float)), size = n;
    if (!kept) abort();
    return kept;
}

void lstm_forward(int T, int N, int D, int H, const float *x, const float *W_ih, const float *W_hh,
                  const float *b, float *h, float *c) {
    size_t R = (size_t)T * N, state = state_row(H);
    float *gates = room(R * (gate_row(H) + 3 * state + H) + 2 * N * state), *c_prev = gates + R * gate_row(H);
    float *tanh_c = c_prev + R * state, *h_prev = tanh_c + R * state, *y = h_prev + R * state;
    float *h_rows = y + R * H, *c_rows = h_rows + N * state;
    int32_t counts[T];
    for (int t = 0; t < T; t++) counts[t] = N;
    for (int n = 0; n < N; n++) {
        memcpy(h_rows + n * state, h + (size_t)n * H, H * sizeof(float));
        memcpy(c_rows + n * state, c + (size_t)n * H, H * sizeof(float));
    }
    lstm s = {.T = T, .N = N, .D = D, .H = H, .has_initial = 1, .counts = counts, .x = x, .W_ih = W_ih,
              .W_hh = W_hh, .b = b, .gates = gates, .c_prev = c_prev, .tanh_c = tanh_c, .h_prev = h_prev,
              .y = y, .h = h_rows, .c = c_rows};
    if (emonet_lstm_forward_step(&s)) abort();    // no memory
    for (int n = 0; n < N; n++) {
        memcpy(h + (size_t)n * H, h_rows + n * state, H * sizeof(float));
        memcpy(c + (size_t)n * H, c_rows + n * state, H * sizeof(float));
    }
}

// One LSTM layer over a batch of sequences, forward and backward.
//
// Only the product with W_hh waits for the step before, so everything else leaves the loop over time: x @ W_ih for all steps
// is one large product before it, the gradients of the weights and of x are three large ones behind it (matmul.h).
// What stays in the loop is h (N, H) @ W_hh (H, 4H) with N about 16, where a library's matrix product spends its time on
// copying W_hh again in every step. Here W_hh is packed once for all steps, every thread owns some hidden units with all
// four gates of each, and keeps their part of W_hh (and of c) to itself: what the threads exchange is h, 64 KB or less, and
// one barrier a step is enough because h is written to two buffers in turn. The gates are computed right behind the
// product, while its result is in the first-level cache.
//
// Sequences are sorted by length, longest first, and rows behind an end are left out: step t works on the first
// counts[t] sequences, whose rows lie behind those of step t - 1. R is the sum of counts.
#pragma once
#include "matmul.h"

typedef struct {
    int T, N, D, H, has_initial, truncate;
    const int32_t *counts;                              // (T), falling
    const float *x, *W_ih, *W_hh, *b;                   // (R, D), (D, 4H), (H, 4H), (4H)
    float *gates;                                       // (R, gate_row): i f g o
    float *c_prev, *tanh_c, *h_prev;                    // (R, state_row)
    float *y;                                           // (R, H)
    float *h, *c;                                       // (N, state_row): the initial state becomes the final one
    const float *dy;                                    // (R, H) or NULL
    float *dh, *dc;                                     // (N, state_row): final state in, initial state out
    float *da, *dx, *dW_ih, *dW_hh, *db;                // (R, gate_row), (R, D) or NULL; the last three are added to
} lstm;

// Rows of what only these kernels read are some vectors longer than their contents: with H a power of two, all rows would
// otherwise lie a multiple of 4 KB apart, where a processor takes a load for one that overlaps the stores before it.
INLINE ptrdiff_t gate_row(int H) { return 4 * (ptrdiff_t)H + 32; }
INLINE ptrdiff_t state_row(int H) { return (ptrdiff_t)H + 16; }

// ---- what goes through W_hh: h forward, da backward, and W_hh itself, as the products want them ----

#ifdef BF16

// h and da as rows of bfloat16 a little longer than the sum, W_hh as panels of pairs, behind the end zeros.
typedef half passed;
INLINE int terms(int K) { return up(K, 2 * VL); }
INLINE int passed_row(int K, int lda) { (void)lda; return terms(K) + 2 * VL; }
INLINE size_t passed_floats(int K, int lda) { return halves((size_t)lda * passed_row(K, lda)); }
INLINE size_t weight_floats(int K, int columns) { return halves((size_t)terms(K) * columns); }

static void hand_over(vec *r, int count, int units, passed *dst, int u, int n, int row) {
    for (int i = 0; i < least(VL, count); i++) store_halves(dst + (size_t)(n + i) * row + u, r[i], units);
}
static void pack_forward(const lstm *s, int from, int to, float *weights) {
    int H = s->H;
    half *dst = (half *)weights;
    for (int u = from * VL; u < to * VL; u += VL)
        for (int gate = 0; gate < 4; gate++, dst += (size_t)VL * terms(H))
            pack_rows(least(VL, H - u), H, s->W_hh + gate * H + u, 1, 4 * H, 1, dst, 0);
}
static void pack_backward(const lstm *s, int from, int to, float *weights) {
    int H = s->H, K = 4 * H;
    half *dst = (half *)weights;
    for (int u = from * VL; u < to * VL; u += VL, dst += (size_t)VL * terms(K))
        pack_rows(least(VL, H - u), K, s->W_hh + (size_t)u * K, K, 1, 1, dst, 0);
}
// Behind the units of a row stand zeros, which nobody writes to later.
static void clear_ends(passed *rows, int K, int lda) {
    int row = passed_row(K, lda);
    for (int n = 0; n < lda; n++) memset(rows + (size_t)n * row + K, 0, (row - K) * sizeof(half));
}
// z (count, columns) = rows of K numbers times the weights of own units: of all at once, when asked for group 0.
INLINE int z_row(int columns, int group) { (void)group; return columns; }
static const float *product_of(int g, int group, int count, int columns, int K, const passed *rows, int lda,
                               const float *weights, float *z) {
    left_factor a = {rows, passed_row(K, lda), 0};
    right_factor b = {(const half *)weights, (ptrdiff_t)VL * terms(K), 0};
    if (g == 0) {
        int pairs = begin_products(terms(K));
        multiply_halves(count, columns, 1, terms(K), pairs, a, b, z, columns, 0);
        end_products(pairs);
    }
    return z + g * group;
}

#else

// h and da transposed, a row of sequences for each unit; W_hh as panels of NR columns.
typedef float passed;
INLINE int passed_row(int K, int lda) { (void)K; return lda; }
INLINE size_t passed_floats(int K, int lda) { return (size_t)K * lda; }
INLINE size_t weight_floats(int K, int columns) { return (size_t)K * columns; }

// C[i][j] = sum over k of A[k lda + i] * panel[k NR + j]: R rows, one panel, all in registers.
INLINE void narrow(const int R, int K, const float *A, int lda, const float *panel, float *C, int ldc) {
    vec acc[12][2];
    UNROLL for (int i = 0; i < R; i++) acc[i][0] = acc[i][1] = (vec){0};
    for (int k = 0; k < K; k++, A += lda, panel += NR) {
        vec w0 = load(panel), w1 = load(panel + VL);
        UNROLL for (int i = 0; i < R; i++) {
            acc[i][0] += A[i] * w0;
            acc[i][1] += A[i] * w1;
        }
    }
    UNROLL for (int i = 0; i < R; i++) store(C + i * ldc, acc[i][0]), store(C + i * ldc + VL, acc[i][1]);
}

// `rows` of A (transposed: A[k][row]) times one packed panel (K, NR). Rows are computed in fours: C and A have room.
static void product(int rows, int K, const float *A, int lda, const float *panel, float *C, int ldc) {
    for (int m; rows > 0; rows -= m, A += m, C += m * ldc) {
#if VL == 16
        if (rows > 8 && rows <= 12) { m = 12; narrow(12, K, A, lda, panel, C, ldc); continue; }
        if (rows > 4) { m = 8; narrow(8, K, A, lda, panel, C, ldc); continue; }
#endif
        m = 4;
        narrow(4, K, A, lda, panel, C, ldc);
    }
}

// Panels of W_hh for the groups of VL hidden units from .. to - 1: for each (H, [i f]) and (H, [g o]).
static void pack_forward(const lstm *s, int from, int to, float *dst) {
    int H = s->H;
    for (int u = from * VL; u < to * VL; u += VL)
        for (int gate = 0; gate < 4; gate += 2)
            for (int k = 0; k < H; k++, dst += NR) {
                const float *w = s->W_hh + (size_t)k * 4 * H + gate * H + u;
                store(dst, load_n(w, H - u));
                store(dst + VL, load_n(w + H, H - u));
            }
}

// What group u of units of up to VL sequences from n on passes on, where `units` of them exist: dst[unit][sequence].
INLINE void hand_over(vec *r, int count, int units, passed *dst, int u, int n, int lda) {
    (void)count;
    transpose(r);
    for (int j = 0; j < least(VL, units); j++) store(dst + (size_t)(u + j) * lda + n, r[j]);
}

// Panels of W_hh transposed for the same groups: (4H, two groups), the gradient of their h from da of all gates.
static void pack_backward(const lstm *s, int from, int to, float *dst) {
    int H = s->H;
    for (int u = from * VL; u < to * VL; u += NR, dst += (size_t)4 * H * NR)
        pack_panel(4 * H, least(NR, least(H, to * VL) - u), NR, s->W_hh + (size_t)u * 4 * H, 4 * H, 1, dst);
}

INLINE void clear_ends(passed *rows, int K, int lda) { (void)rows, (void)K, (void)lda; }
INLINE int z_row(int columns, int group) { (void)columns; return group; }
// z (count, group) of group g: a product while the gates of the one before are still in cache.
static const float *product_of(int g, int group, int count, int columns, int K, const passed *rows, int lda,
                               const float *weights, float *z) {
    for (int p = 0; p < group; p += NR) product(count, K, rows, lda, weights + (size_t)(g * group + p) * K, z + p, group);
    return z;
}

#endif

static void pack_state(const lstm *s, int from, int to, int lda, passed *dst) {
    for (int u = from * VL; u < to * VL; u += VL)
        for (int n = 0; n < lda; n += VL) {
            vec r[VL];
            for (int i = 0; i < VL; i++) {
                if (n + i < s->N) r[i] = load_n(s->h + (n + i) * state_row(s->H) + u, s->H - u);
                else r[i] = (vec){0};
            }
            hand_over(r, s->N - n, s->H - u, dst, u, n, passed_row(s->H, lda));
        }
}

// The gates of `count` sequences for one group of units: z (count, 4 VL) = h @ W_hh, rows ldz apart, joins x @ W_ih + b in
// s->gates.
static void gates_forward(const lstm *s, int count, int next, size_t row, int u, const float *z, int ldz, int lda,
                          passed *packed) {
    int H = s->H, m = least(VL, H - u);
    vec bias[4];
    for (int q = 0; q < 4; q++) bias[q] = load_n(s->b + q * H + u, m);
    for (int n = 0; n < count; n += VL) {
        vec r[VL];
        for (int i = 0; i < VL; i++) {
            if (n + i >= count) { r[i] = (vec){0}; continue; }
            float *a = s->gates + (row + n + i) * gate_row(H) + u;
            const float *p = z + (size_t)(n + i) * ldz;
            size_t at = (row + n + i) * state_row(H) + u, out_at = (row + n + i) * H + u, mine = (n + i) * state_row(H) + u;
            vec in = sigmoid_of(load_n(a, m) + load(p) + bias[0]);
            vec forget = sigmoid_of(load_n(a + H, m) + load(p + VL) + bias[1]);
            vec g = tanh_of(load_n(a + 2 * H, m) + load(p + 2 * VL) + bias[2]);
            vec out = sigmoid_of(load_n(a + 3 * H, m) + load(p + 3 * VL) + bias[3]);
            vec before = load_n(s->c + mine, m), c = forget * before + in * g, tc = tanh_of(c), h = out * tc;
            store_n(a, in, m), store_n(a + H, forget, m), store_n(a + 2 * H, g, m), store_n(a + 3 * H, out, m);
            store_n(s->c_prev + at, before, m), store_n(s->tanh_c + at, tc, m), store_n(s->y + out_at, h, m);
            store_n(s->c + mine, c, m);
            store_n(n + i < next ? s->h_prev + at + count * state_row(H) : s->h + mine, h, m);   // s->h only behind the end
            r[i] = h;
        }
        hand_over(r, count - n, m, packed, u, n, passed_row(H, lda));
    }
}

// A step of a few microseconds is not worth a barrier, which costs as much and far more on a busy machine.
static int threads_of(const lstm *s) { return 4.0 * s->N * s->H * (s->D + s->H) < 1 << 19 ? 1 : pool_threads(); }

static size_t rows_of(const lstm *s) {
    size_t R = 0;
    for (int t = 0; t < s->T; t++) R += s->counts[t];
    return R;
}

static void lstm_forward_part(void *context, int t, int threads) {
    const lstm *s = context;
    int H = s->H, lda = up(s->N, VL), from, to;
    size_t exchanged = passed_floats(up(H, VL), lda), row = 0;
    share((H + VL - 1) / VL, t, threads, &from, &to);
    int columns = (to - from) * 4 * VL, ldz = z_row(columns, 4 * VL);
    passed *state[2] = {(passed *)pool_scratch(0), (passed *)(pool_scratch(0) + exchanged)};
    float *z = pool_scratch(t) + 2 * exchanged, *weights = z + (size_t)lda * ldz, *room = weights + weight_floats(H, columns);
    matrix x = {s->x, s->D, 1}, W_ih = {s->W_ih, 4 * H, 1};
    matmul_shared((int)rows_of(s), 4 * H, s->D, x, W_ih, s->gates, gate_row(H), 0, t, threads, room);
    pack_forward(s, from, to, weights);
    pack_state(s, from, to, lda, state[0]);
    for (int k = 0; t == 0 && k < 2; k++) clear_ends(state[k], H, lda);
    for (int n = 0; n < s->counts[0]; n++)                        // h_prev of the first step, own units
        for (int u = from * VL; u < least(H, to * VL); u++) s->h_prev[n * state_row(H) + u] = s->h[n * state_row(H) + u];
    for (int k = 0; k < s->T; k++) {
        int count = s->counts[k], next = k + 1 < s->T ? s->counts[k + 1] : 0, zero = k == 0 && !s->has_initial;
        pool_barrier(threads);                                    // x @ W_ih, or the h of the step before, is complete
        if (zero) memset(z, 0, (size_t)lda * ldz * sizeof(float));
        for (int g = from; g < to; g++) {
            const float *product = zero ? z : product_of(g - from, 4 * VL, count, columns, H, state[k % 2], lda, weights, z);
            gates_forward(s, count, next, row, g * VL, product, ldz, lda, state[(k + 1) % 2]);
        }
        row += count;
    }
}

int API(lstm_forward)(lstm *s) {
    size_t lda = up(s->N, VL), H = up(s->H, VL);
    if (pool_reserve(2 * passed_floats(H, lda) + lda * z_row(4 * H, 4 * VL) + weight_floats(H, 4 * H) + MATMUL_ROOM)) return -1;
    pool_run_on(threads_of(s), lstm_forward_part, s);
    return 0;
}

// da of `count` sequences for one group of units, from dy + dh and dc; to s->da, and passed on.
static void gates_backward(const lstm *s, int count, size_t row, int u, int lda, passed *packed, float *db) {
    int H = s->H, m = least(VL, H - u);
    vec sum[4];
    for (int q = 0; q < 4; q++) sum[q] = load(db + q * VL);
    for (int n = 0; n < count; n += VL) {
        vec r[4][VL];
        for (int i = 0; i < VL; i++) {
            if (n + i >= count) { for (int q = 0; q < 4; q++) r[q][i] = (vec){0}; continue; }
            const float *a = s->gates + (row + n + i) * gate_row(H) + u;
            size_t at = (row + n + i) * state_row(H) + u, out_at = (row + n + i) * H + u, mine = (n + i) * state_row(H) + u;
            vec in = load_n(a, m), forget = load_n(a + H, m), g = load_n(a + 2 * H, m), out = load_n(a + 3 * H, m);
            vec tc = load_n(s->tanh_c + at, m), dh = load_n(s->dh + mine, m), d[4];
            if (s->dy) dh += load_n(s->dy + out_at, m);
            vec dc = load_n(s->dc + mine, m) + dh * out * (1 - tc * tc);
            d[0] = dc * g * in * (1 - in);
            d[1] = dc * load_n(s->c_prev + at, m) * forget * (1 - forget);
            d[2] = dc * in * (1 - g * g);
            d[3] = dh * tc * out * (1 - out);
            store_n(s->dc + mine, dc * forget, m);
            for (int q = 0; q < 4; q++) {
                store_n(s->da + (row + n + i) * gate_row(H) + q * H + u, d[q], m);
                sum[q] += d[q];
                r[q][i] = d[q];
            }
        }
        for (int q = 0; q < 4; q++) hand_over(r[q], count - n, m, packed, q * H + u, n, passed_row(4 * H, lda));
    }
    for (int q = 0; q < 4; q++) store(db + q * VL, sum[q]);
}

// dh (count, own units) = da @ W_hh transposed, or zeros where backward forgets.
static void hidden_backward(const lstm *s, int count, int from, int to, int forget, int lda, const passed *packed,
                            const float *weights, float *z) {
    int H = s->H, end = least(H, to * VL), columns = (to - from) * VL, ldz = z_row(columns, NR);
    for (int u = from * VL, g = 0; u < end; u += NR, g++) {
        const float *product = forget ? z : product_of(g, NR, count, columns, 4 * H, packed, lda, weights, z);
        for (int n = 0; n < count; n++)
            for (int v = u; v < least(end, u + NR); v += VL) {
                size_t at = n * state_row(H) + v;
                store_n(s->dh + at, forget ? (vec){0} : load(product + n * ldz + v - u), end - v);
                if (forget) store_n(s->dc + at, (vec){0}, end - v);
            }
    }
}

static void lstm_backward_part(void *context, int t, int threads) {
    const lstm *s = context;
    int H = s->H, lda = up(s->N, VL), from, to;
    size_t exchanged = passed_floats(4 * H, lda), R = rows_of(s), row = R;
    share((H + VL - 1) / VL, t, threads, &from, &to);
    int columns = (to - from) * VL;
    passed *sent[2] = {(passed *)pool_scratch(0), (passed *)(pool_scratch(0) + exchanged)};
    float *z = pool_scratch(t) + 2 * exchanged, *db = z + (size_t)lda * z_row(columns, NR), *weights = db + (size_t)4 * columns;
    float *room = weights + weight_floats(4 * H, up(columns, NR));
    for (int k = 0; t == 0 && k < 2; k++) clear_ends(sent[k], 4 * H, lda);
    memset(db, 0, (size_t)(to - from) * 4 * VL * sizeof(float));
    pack_backward(s, from, to, weights);
    for (int k = s->T - 1; k >= 0; k--) {
        int count = s->counts[k];
        row -= count;
        for (int g = from; g < to; g++)
            gates_backward(s, count, row, g * VL, lda, sent[k % 2], db + (size_t)(g - from) * 4 * VL);
        pool_barrier(threads);                                    // da of all units is there
        hidden_backward(s, count, from, to, s->truncate && k && k % s->truncate == 0, lda, sent[k % 2], weights, z);
    }
    for (int g = from; g < to; g++)
        for (int q = 0; q < 4; q++) {
            float *b = s->db + q * H + g * VL, *sum = db + ((size_t)(g - from) * 4 + q) * VL;
            store_n(b, load_n(b, H - g * VL) + load(sum), H - g * VL);
        }
    matrix da = {s->da, gate_row(H), 1};
    matmul_shared(s->D, 4 * H, (int)R, (matrix){s->x, 1, s->D}, da, s->dW_ih, 4 * H, 1, t, threads, room);
    matmul_shared(H, 4 * H, (int)R, (matrix){s->h_prev, 1, state_row(H)}, da, s->dW_hh, 4 * H, 1, t, threads, room);
    if (s->dx) matmul_shared((int)R, s->D, 4 * H, da, (matrix){s->W_ih, 1, 4 * H}, s->dx, s->D, 0, t, threads, room);
}

int API(lstm_backward)(lstm *s) {
    size_t lda = up(s->N, VL), H = up(s->H, VL);
    if (pool_reserve(2 * passed_floats(4 * H, lda) + lda * z_row(H, NR) + 4 * H + weight_floats(4 * H, H + 2 * VL) + MATMUL_ROOM))
        return -1;
    pool_run_on(threads_of(s), lstm_backward_part, s);
    return 0;
}

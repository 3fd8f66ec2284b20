// What is done to each number on its own: optimizer steps, a gradient's norm, normalising pixels, softmax cross-entropy.
//
// Arithmetic costs nothing here, moving memory does. NumPy writes the result of every single operation to memory and
// reads it back, some ten passes for Adam; here a number is read once, everything is done to it in registers, and it is
// written once. All parameters of a model are one call, over a table of where they lie, so that the small ones
// (biases, batch norms) cost no call of their own and threads share the sum of all sizes evenly.
#pragma once
#include "functions.h"

enum { FEW = 1 << 15 };                                 // numbers that are not worth waking a thread for

// One parameter: its value, gradient and the optimizer's slots (NULL where there is none).
typedef struct { float *value, *grad, *m, *v; int64_t size; } parameter;

typedef struct {
    const parameter *table;
    int count;
    float lr, decay, shrink;                            // decoupled decay: value *= shrink first
    float beta1, rest1, beta2, rest2, unbias2, eps;     // Adam: rest = 1 - beta, unbias2 = 1 / (1 - beta2^t)
    int nesterov;                                       // SGD; its momentum is beta1
} update;

INLINE void adam_of(const update *u, const parameter *p, int64_t i, int n) {
    vec value = load_n(p->value + i, n) * u->shrink, d = load_n(p->value + i, n) * u->decay + load_n(p->grad + i, n);
    vec m = load_n(p->m + i, n) * u->beta1 + d * u->rest1, v = load_n(p->v + i, n) * u->beta2 + d * d * u->rest2;
    store_n(p->m + i, m, n), store_n(p->v + i, v, n);
    store_n(p->value + i, value - m / (sqrt_of(v * u->unbias2) + u->eps) * u->lr, n);
}

INLINE void sgd_of(const update *u, const parameter *p, int64_t i, int n) {
    vec value = load_n(p->value + i, n), d = value * u->decay + load_n(p->grad + i, n);
    if (p->m) {
        vec m = load_n(p->m + i, n) * u->beta1 + d;
        store_n(p->m + i, m, n);
        if (u->nesterov) d += m * u->beta1;
        else d = m;
    }
    store_n(p->value + i, value - d * u->lr, n);
}

static int64_t numbers(const update *u) {
    int64_t total = 0;
    for (int k = 0; k < u->count; k++) total += u->table[k].size;
    return total;
}

// For thread t: `from` and `to` become its part of the k-th parameter, whose first number is the `before`-th of all.
INLINE void part(const update *u, int64_t total, int64_t before, int k, int t, int threads, int64_t *from, int64_t *to) {
    *from = total * t / threads - before, *to = total * (t + 1) / threads - before;
    if (*from < 0) *from = 0;
    if (*to > u->table[k].size) *to = u->table[k].size;
}

#define OVER_ALL(name, one)                                                                                           \
    static void name(void *context, int t, int threads) {                                                             \
        const update *u = context;                                                                                    \
        int64_t total = numbers(u), before = 0, from, to;                                                             \
        for (int k = 0; k < u->count; before += u->table[k++].size) {                                                 \
            const parameter *p = u->table + k;                                                                        \
            part(u, total, before, k, t, threads, &from, &to);                                                        \
            for (; from + VL <= to; from += VL) one(u, p, from, VL);                                                  \
            if (from < to) one(u, p, from, (int)(to - from));                                                         \
        }                                                                                                             \
    }
OVER_ALL(adam_part, adam_of)
OVER_ALL(sgd_part, sgd_of)

int API(adam)(update *u) {
    pool_run_on(numbers(u) < FEW ? 1 : pool_threads(), adam_part, u);
    return 0;
}

int API(sgd)(update *u) {
    pool_run_on(numbers(u) < FEW ? 1 : pool_threads(), sgd_part, u);
    return 0;
}

// Squares are added in float for at most SUM numbers of a lane, then in double: no longer sum, no loss.
enum { SUM = 256 };
typedef struct { update all; double sums[256]; float factor; } norm;

static void norm_part(void *context, int t, int threads) {
    norm *s = context;
    int64_t total = numbers(&s->all), before = 0, from, to;
    double sum = 0;
    for (int k = 0; k < s->all.count; before += s->all.table[k++].size) {
        const float *g = s->all.table[k].grad;
        part(&s->all, total, before, k, t, threads, &from, &to);
        while (from < to) {
            vec squares = {0};
            for (int n = 0; n < SUM && from < to; n++, from += VL) {
                vec a = load_n(g + from, to - from < VL ? (int)(to - from) : VL);
                squares += a * a;
            }
            for (int i = 0; i < VL; i++) sum += squares[i];
        }
    }
    s->sums[t] = sum;
}

static void scale_part(void *context, int t, int threads) {
    norm *s = context;
    int64_t total = numbers(&s->all), before = 0, from, to;
    for (int k = 0; k < s->all.count; before += s->all.table[k++].size) {
        float *g = s->all.table[k].grad;
        part(&s->all, total, before, k, t, threads, &from, &to);
        for (int64_t i = from; i < to; i++) g[i] *= s->factor;
    }
}

// The sum of the squares of all gradients, to *result.
int API(gradient_norm_squared)(const parameter *table, int count, double *result) {
    norm s = {.all = {.table = table, .count = count}};
    pool_run_on(numbers(&s.all) < FEW ? 1 : pool_threads(), norm_part, &s);
    *result = 0;
    for (int t = 0; t < 256; t++) *result += s.sums[t];
    return 0;
}

int API(scale_gradients)(const parameter *table, int count, float factor) {
    norm s = {.all = {.table = table, .count = count}, .factor = factor};
    pool_run_on(numbers(&s.all) < FEW ? 1 : pool_threads(), scale_part, &s);
    return 0;
}

// y = x * scale + shift for pixels of C <= COLOURS bytes. VL does not divide by 3: VL pixels are C whole vectors of
// which each has its own, repeating, scales and shifts.
enum { COLOURS = 16 };
typedef uint8_t bytes __attribute__((vector_size(VL), aligned(1), may_alias));
typedef struct {
    int64_t size;
    int C;
    const uint8_t *x;
    float *y, scale[COLOURS * VL], shift[COLOURS * VL];
} pixels;

static void normalize_part(void *context, int t, int threads) {
    const pixels *s = context;
    int64_t run = (int64_t)s->C * VL, runs = s->size / run, i = runs * t / threads * run;
    for (int64_t end = runs * (t + 1) / threads * run; i < end; i += run)
        for (int v = 0; v < run; v += VL) {
            vec x = __builtin_convertvector(*(const bytes *)(s->x + i + v), vec);
            store(s->y + i + v, x * load(s->scale + v) + load(s->shift + v));
        }
    if (t == threads - 1)
        for (int k = 0; i < s->size; i++, k++) s->y[i] = s->x[i] * s->scale[k] + s->shift[k];
}

int API(normalize)(int64_t size, int C, const uint8_t *x, const float *scale, const float *shift, float *y) {
    pixels s = {.size = size, .C = C, .x = x, .y = y};
    for (int i = 0; i < C * VL; i++) s.scale[i] = scale[i % C], s.shift[i] = shift[i % C];
    pool_run_on(size < FEW ? 1 : pool_threads(), normalize_part, &s);
    return 0;
}

typedef struct {
    int N, K;
    double total, loss;                                 // what the loss is divided by; the result
    const float *logits, *targets, *weights;            // (N, K), (N, K) smoothed, (K) or NULL
    float *dlogits;
} entropy;

// The n-th row's share of the loss, and its dlogits = (p * (sum of t) - t) / total with t_k = w_k q_k.
static double cross_entropy_row(const entropy *s, int n) {
    const float *z = s->logits + (size_t)n * s->K, *q = s->targets + (size_t)n * s->K;
    float *d = s->dlogits + (size_t)n * s->K, largest = -INFINITY;
    double sum = 0, targets = 0, loss = 0;
    for (int k = 0; k < s->K; k++) largest = z[k] > largest ? z[k] : largest;
    for (int k = 0; k < s->K; k += VL) store_n(d + k, exp_of(load_n(z + k, s->K - k) - largest), s->K - k);
    for (int k = 0; k < s->K; k++) sum += d[k];
    double log_sum = log(sum);
    for (int pass = 0; pass < 2; pass++)
        for (int k = 0; k < s->K; k++) {
            double t = (double)q[k] * (s->weights ? s->weights[k] : 1);
            if (pass) { d[k] = (float)((d[k] / sum * targets - t) / s->total); continue; }
            targets += t;
            if (q[k] > 0) loss -= t * ((double)z[k] - largest - log_sum);      // 0 log 0 = 0: a masked class has z = -inf
        }
    return loss;
}

int API(softmax_cross_entropy)(entropy *s) {
    s->loss = 0;
    for (int n = 0; n < s->N; n++) s->loss += cross_entropy_row(s, n) / s->total;
    return 0;
}

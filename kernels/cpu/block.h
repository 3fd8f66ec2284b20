// Convolution + batch norm (+ ReLU) as one piece: the kernels of the stem of a ResNet and of ResidualBlock.
//
//     z1 = conv1(x)                      moments of z1 gathered from each band while it is in cache
//     z2 = conv2(max(norm(z1), 0))       normalise + ReLU applied while z1 is loaded
//     y  = max(norm(z2) + shortcut(x), 0)
//
// Backward walks the same way: the gradient of z2 is formed from dy, y and z2 while they are loaded, that of z1 is
// masked and its sums for batch norm are gathered while it is written, the shortcut's is added while dx is written.
// Of the intermediate arrays only z1, z2, y and one gradient ever reach memory.
#pragma once
#include "conv.h"

// Everything that belongs to one convolution and the batch norm behind it; F channels. The caller passes pointers.
typedef struct {
    const float *W, *gamma, *beta;
    float *running_mean, *running_var;
    float *constants;                   // (4, P): mean, scale, shift, 1 / std: filled by forward, read by backward
    float *z;                           // (N, OH, OW, F): what the convolution gave
    float *dW, *dgamma, *dbeta;         // added to
} conv_norm;

INLINE channels constants_of(const conv_norm *c, int P) {
    return (channels){c->constants, c->constants + P, c->constants + 2 * P, NULL};
}

// Training: from the batch's moments, which the running statistics follow; evaluation: from the running statistics.
static void norm_forward(const conv_norm *c, int F, int training, float eps, float momentum, const double *moments) {
    int P = padded(F);
    memset(c->constants, 0, 4 * P * sizeof(float));
    for (int f = 0; f < F; f++) {
        double mean = c->running_mean[f], var = c->running_var[f];
        if (training) {
            double count = moments[f];
            mean = moments[P + f];
            var = moments[2 * P + f] / count;
            c->running_mean[f] += momentum * (float)(mean - c->running_mean[f]);
            c->running_var[f] += momentum * (float)(moments[2 * P + f] / (count > 1 ? count - 1 : 1) - c->running_var[f]);
        }
        double inv_std = 1 / sqrt(var + eps);
        c->constants[f] = (float)mean;
        c->constants[P + f] = (float)(c->gamma[f] * inv_std);
        c->constants[2 * P + f] = c->beta[f];
        c->constants[3 * P + f] = (float)inv_std;
    }
}

// From the sums over all pixels of d and d * (z - mean), (2, P), to dgamma, dbeta and the constants of dz:
//     dz = gamma / std * (d - mean(d) - x_hat * mean(d * x_hat)),    in evaluation gamma / std * d
// k: room for (3, P).
static channels norm_backward(const conv_norm *c, int F, int training, double pixels, const double *sums, float *k) {
    int P = padded(F);
    memset(k, 0, 3 * P * sizeof(float));
    for (int f = 0; f < F; f++) {
        double inv_std = c->constants[3 * P + f], scale = c->gamma[f] * inv_std, dgamma = sums[P + f] * inv_std;
        c->dgamma[f] += (float)dgamma;
        c->dbeta[f] += (float)sums[f];
        k[f] = (float)scale;
        if (training) {
            k[P + f] = (float)(-scale * inv_std * dgamma / pixels);
            k[2 * P + f] = (float)(-scale * sums[f] / pixels);
        }
    }
    return (channels){c->constants, k, k + 2 * P, k + P};
}

// ---- the two passes that no convolution can take along ----

typedef struct {
    int N, H, W, C;                     // of z, y and dy
    const float *z, *x, *dy;
    float *y;
    channels bn;
    const shortcut *cut;                // NULL: none
    size_t doubles_at;
} pass;

// Row r of all images, channels c ..., of which n exist: a constant where they fill a vector.
INLINE void finish_line(const pass *p, int r, int c, int n) {
    const shortcut *cut = p->cut;
    const float *x = cut ? p->x + ((size_t)(r / p->H) * cut->H + (size_t)(r % p->H) * cut->stride) * cut->W * cut->C : NULL;
    vec mean = load(p->bn.mean + c), scale = load(p->bn.scale + c), shift = load(p->bn.shift + c);
    for (int j = 0; j < p->W; j++) {
        size_t at = ((size_t)r * p->W + j) * p->C + c;
        vec a = (load_n(p->z + at, n) - mean) * scale + shift;
        if (cut) a += shortcut_value(x + (size_t)j * cut->stride * cut->C, cut->C, cut->before, c, n);
        store_n(p->y + at, relu(a), n);
    }
}

// y = max(norm(z) + shortcut(x), 0)
static void finish_job(void *context, int t, int threads) {
    pass *p = context;
    int from, to;
    share(p->N * p->H, t, threads, &from, &to);
    for (int r = from; r < to; r++)
        for (int c = 0; c < p->C; c += VL)
            if (p->C - c >= VL) finish_line(p, r, c, VL);
            else finish_line(p, r, c, p->C - c);
}

INLINE void reduce_line(const pass *p, int r, int c, int n, double *sums, double *products) {
    vec mean = load(p->bn.mean + c), sum = {0}, product = {0};
    for (int j = 0; j < p->W; j++) {
        size_t at = ((size_t)r * p->W + j) * p->C + c;
        vec d = where(load_n(p->y + at, n) > 0, load_n(p->dy + at, n));
        sum += d;
        product += d * (load_n(p->z + at, n) - mean);
    }
    for (int k = 0; k < n; k++) {
        sums[k] += sum[k];
        products[k] += product[k];
    }
}

// Per thread: sums of d = dy * (y > 0) and of d * (z - mean), (2, P) doubles.
static void reduce_job(void *context, int t, int threads) {
    pass *p = context;
    int P = padded(p->C), from, to;
    double *sums = (double *)(pool_scratch(t) + p->doubles_at);
    memset(sums, 0, 2 * P * sizeof(double));
    share(p->N * p->H, t, threads, &from, &to);
    for (int r = from; r < to; r++)
        for (int c = 0; c < p->C; c += VL)
            if (p->C - c >= VL) reduce_line(p, r, c, VL, sums + c, sums + P + c);
            else reduce_line(p, r, c, p->C - c, sums + c, sums + P + c);
}

static int reduce(pass *p, double *sums) {
    int P = padded(p->C);
    if (pool_reserve(4 * P)) return -1;
    int threads = threads_for(20. * p->N * p->H * p->W * p->C);
    pool_run_on(threads, reduce_job, p);
    memset(sums, 0, 2 * P * sizeof(double));
    for (int t = 0; t < threads; t++)
        for (int c = 0; c < 2 * P; c++) sums[c] += ((double *)pool_scratch(t))[c];
    return 0;
}

// ---- the kernels ----

enum { MOST_CHANNELS = 1024 };
typedef struct { int N, H, W, C, F, stride, exact, training; float eps, momentum; } block;   // x (N, H, W, C)

INLINE shape shape_of(const block *b, int backward) {
    return (shape){b->N, b->H, b->W, b->C, b->F, b->stride, b->stride == 1 && !b->exact && (backward || b->C >= 8)};
}

// z = in * W, and the constants of the norm behind it.
static int conv_norm_forward(const block *b, const shape *s, const source *in, const conv_norm *c) {
    double moments[3 * MOST_CHANNELS] = {0};
    sink out = {.kind = STORE, .out = c->z};
    if (conv_forward(s, in, c->W, &out, b->training ? moments : NULL)) return -1;
    norm_forward(c, s->F, b->training, b->eps, b->momentum, moments);
    return 0;
}

// y = max(norm(conv(x)), 0)
int API(stem)(const block *b, const conv_norm *c, const float *x, float *y) {
    shape s = shape_of(b, 0);
    source in = {.kind = PLAIN, .a = x};
    if (conv_norm_forward(b, &s, &in, c)) return -1;
    pass p = {b->N, out_size(b->H, b->stride), out_size(b->W, b->stride), b->F, .z = c->z, .y = y,
              .bn = constants_of(c, padded(b->F))};
    pool_run_on(threads_for(20. * p.N * p.H * p.W * p.C), finish_job, &p);
    return 0;
}

int API(stem_backward)(const block *b, const conv_norm *c, const float *x, float *y, const float *dy, float *dx) {
    int P = padded(b->F);
    double sums[2 * MOST_CHANNELS];
    float k[3 * MOST_CHANNELS];
    pass p = {b->N, out_size(b->H, b->stride), out_size(b->W, b->stride), b->F, .z = c->z, .y = y, .dy = dy,
              .bn = constants_of(c, P)};
    if (reduce(&p, sums)) return -1;
    shape s = shape_of(b, 1);
    source in = {.kind = PLAIN, .a = x};
    source dz = {.kind = NORM_GRAD_RELU, .a = dy, .y = y, .z = c->z};
    dz.bn = norm_backward(c, b->F, b->training, (double)p.N * p.H * p.W, sums, k);
    sink out = {.kind = STORE, .out = dx};
    return conv_backward(&s, &dz, &in, dx ? c->W : NULL, &out, c->dW, NULL);
}

// `first` has b's shape, `second` is F to F with stride 1. The shortcut: identity or padded (option A).
int API(block)(const block *b, const conv_norm *first, const conv_norm *second, const float *x, float *y) {
    int OH = out_size(b->H, b->stride), OW = out_size(b->W, b->stride), P = padded(b->F);
    shape s1 = shape_of(b, 0), s2 = {b->N, OH, OW, b->F, b->F, 1, !b->exact && b->F >= 8};
    source in1 = {.kind = PLAIN, .a = x};
    if (conv_norm_forward(b, &s1, &in1, first)) return -1;
    source in2 = {.kind = NORM_RELU, .a = first->z, .bn = constants_of(first, P)};
    if (conv_norm_forward(b, &s2, &in2, second)) return -1;
    shortcut cut = {b->stride, b->H, b->W, b->C, (b->F - b->C) / 2};
    pass p = {b->N, OH, OW, b->F, .z = second->z, .x = x, .y = y, .bn = constants_of(second, P), .cut = &cut};
    pool_run_on(threads_for(20. * p.N * p.H * p.W * p.C), finish_job, &p);
    return 0;
}

// d1: room for (N, OH, OW, F).
int API(block_backward)(const block *b, const conv_norm *first, const conv_norm *second, const float *x, float *y,
                        const float *dy, float *d1, float *dx) {
    int OH = out_size(b->H, b->stride), OW = out_size(b->W, b->stride), P = padded(b->F);
    double sums[2 * MOST_CHANNELS], pixels = (double)b->N * OH * OW;
    float k[3 * MOST_CHANNELS];
    pass p = {b->N, OH, OW, b->F, .z = second->z, .y = y, .dy = dy, .bn = constants_of(second, P)};
    if (reduce(&p, sums)) return -1;

    shape s2 = {b->N, OH, OW, b->F, b->F, 1, !b->exact};
    source dz2 = {.kind = NORM_GRAD_RELU, .a = dy, .y = y, .z = second->z};
    source a1 = {.kind = NORM_RELU, .a = first->z, .bn = constants_of(first, P)};
    sink to_d1 = {.kind = MASK, .out = d1, .z = first->z, .bn = constants_of(first, P)};
    dz2.bn = norm_backward(second, b->F, b->training, pixels, sums, k);
    memset(sums, 0, sizeof sums);
    if (conv_backward(&s2, &dz2, &a1, second->W, &to_d1, second->dW, sums)) return -1;

    shape s1 = shape_of(b, 1);
    source dz1 = {.kind = NORM_GRAD, .a = d1, .z = first->z}, in = {.kind = PLAIN, .a = x};
    dz1.bn = norm_backward(first, b->F, b->training, pixels, sums, k);
    sink to_dx = {.kind = ADD_MASKED, .out = dx, .y = y, .dy = dy, .cut = {b->stride, OH, OW, b->F, (b->F - b->C) / 2}};
    return conv_backward(&s1, &dz1, &in, first->W, &to_dx, first->dW, NULL);
}

// Evaluation of a whole trunk: a stem (conv, norm, ReLU) and residual blocks, batch norm folded into the filters.
//
//     norm(conv(x)) = x * (W gamma / std) + (beta - mean gamma / std)
//
// A thread takes a few images through all layers before it touches the next ones, in three buffers that stay in its
// cache: no thread waits for another, and of all activations only the last reaches memory. With fewer images than
// that needs, all threads share the bands of each layer instead. Where all sizes are multiples of 4 and all channels fill
// vectors, the buffers hold images with their border of zeros, so that the next layer reads them as they lie.
#pragma once
#include "block.h"

enum { MOST_LAYERS = 128 };
typedef struct { int C, F, stride; float eps; const float *W, *gamma, *beta, *running_mean, *running_var; } folded;

typedef struct {
    int count, N, H, W, exact, group, pad;
    const folded *layers;
    const float *x;
    float *y;
    const float *filters[MOST_LAYERS], *shift[MOST_LAYERS];
    float *room;                        // of all folded filters
    size_t buffers_at, buffer, bands_at;
    int layer, threads_share_layers;
} trunk;

INLINE shape trunk_shape(const trunk *t, int l, int N) {
    const folded *f = &t->layers[l];
    int H = t->H, W = t->W;
    for (int k = 0; k < l; k++) H = out_size(H, t->layers[k].stride), W = out_size(W, t->layers[k].stride);
    return (shape){N, H, W, f->C, f->F, f->stride, f->stride == 1 && !t->exact && f->C >= 8};
}

// Of one layer: [scale, shift | packed | U]
static void fold_job(void *context, int thread, int threads) {
    trunk *t = context;
    float *at = t->room;
    for (int l = 0; l < t->count; l++) {
        const folded *f = &t->layers[l];
        int P = padded(f->F);
        float scale[MOST_CHANNELS] = {0}, *shift = at, *packed = shift + P, *U = packed + 9 * (size_t)padded(f->C) * P;
        shape s = trunk_shape(t, l, 1);
        for (int c = 0; c < P; c++) {
            double factor = c < f->F ? f->gamma[c] / sqrt((double)f->running_var[c] + f->eps) : 0;
            scale[c] = (float)factor;
            if (thread == 0) shift[c] = c < f->F ? (float)(f->beta[c] - f->running_mean[c] * factor) : 0;
        }
        prepare_filters(f->W, scale, &s, 0, packed, U, thread, threads);
        if (thread == 0) t->shift[l] = shift, t->filters[l] = transformed(&s) ? U : packed;
        at = U + 36 * (size_t)padded(f->C) * P;
    }
}

// Layer l for N images from image n on, items of thread `thread` of `threads`; `buffers` are shared by these threads.
static void trunk_layer(const trunk *t, int l, int n, int N, int thread, int threads, float *buffers, float *bands) {
    shape s = trunk_shape(t, l, N);
    plan p = plan_bands(&s, N, threads);
    // The block's input and output change places: layer 0 -> 0; block k: 0 -> 1 -> 2, then 2 -> 1 -> 0, and so on.
    int first = l % 2, k = (l - 1) / 2 % 2, pad = t->pad, from, to;
    float *input = buffers + (k ? 2 : 0) * t->buffer, *output = buffers + (k ? 0 : 2) * t->buffer;
    float *middle = buffers + t->buffer;
    size_t last = (size_t)n * out_size(s.H, s.stride) * out_size(s.W, s.stride) * s.F;
    conv c = {.s = s, .filters = t->filters[l], .in.kind = t->pad && l ? PADDED : PLAIN};
    c.out.pad = l < t->count - 1 ? pad : 0;
    c.in.a = l == 0 ? t->x + (size_t)n * s.H * s.W * s.C : first ? input : middle;
    c.out.out = l == t->count - 1 ? t->y + last : l == 0 ? buffers : first ? middle : output;
#ifdef BF16             // rounded and with a border: a copy of a block's input, and, only so, what is between its convolutions
    half *between = (half *)middle, *of_input = between + t->buffer;
    c.out.pad = pad = 0;
    if (t->pad && l) c.in.a = (const float *)(first ? of_input : between);
    if (t->pad && l < t->count - 1) c.out.copy = first ? between : of_input;
    if (t->pad && first) c.out.out = NULL;
#endif
    c.out.kind = l == 0 || first ? BIAS_RELU : RESIDUAL_RELU;
    c.out.bn.shift = t->shift[l];
    if (c.out.kind == RESIDUAL_RELU) {
        shape b = trunk_shape(t, l - 1, N);
        c.out.y = input;
        c.out.cut = (shortcut){b.stride, b.H, b.W, b.C, (b.F - b.C) / 2, pad};
    }
    share(p.items, thread, threads, &from, &to);
    conv_items(&c, &p, 0, N, from, to, bands);
}

static void trunk_job(void *context, int thread, int threads) {
    trunk *t = context;
    float *mine = pool_scratch(thread);
    int from, to;
    if (t->threads_share_layers) {
        trunk_layer(t, t->layer, 0, t->N, thread, threads, pool_scratch(0) + t->buffers_at, mine + t->bands_at);
        return;
    }
    share(t->N, thread, threads, &from, &to);
    for (int n = from; n < to; n += t->group)
        for (int l = 0; l < t->count; l++)
            trunk_layer(t, l, n, least(t->group, to - n), 0, 1, mine + t->buffers_at, mine + t->bands_at);
}

// Whether the buffers between layers hold images with their border: 0 or 1. A function of its own, so that a test can ask.
int API(trunk_pads)(int count, const folded *layers, int H, int W) {
    trunk t = {.count = count, .H = H, .W = W, .layers = layers};
    for (int l = 1; l < count; l++) {
        shape s = trunk_shape(&t, l, 1);
        if (s.C != padded(s.C) || (sizeof(cell) == sizeof(float) && (s.H % 4 || s.W % 4))) return 0;
    }
    return 1;
}

// y = the output of layer count - 1 (count odd) for x (N, H, W, C of layer 0).
int API(trunk)(int count, const folded *layers, int N, int H, int W, int exact, const float *x, float *y) {
    trunk t = {.count = count, .N = N, .H = H, .W = W, .exact = exact, .layers = layers, .x = x, .y = y};
    int threads = pool_threads();
    t.threads_share_layers = N % threads && N < 4 * threads;
    size_t filters = 0, bands = 0, image = 0;
    t.pad = API(trunk_pads)(count, layers, H, W);
    for (int l = 0; l < count; l++) {
        shape s = trunk_shape(&t, l, 1);
        size_t size = (size_t)(out_size(s.H, s.stride) + 2) * (out_size(s.W, s.stride) + 2) * s.F, P = padded(s.F);
        filters += P + 45 * P * padded(s.C);
        image = size > image ? size : image;
    }
    t.group = t.threads_share_layers ? N : most(1, least((N + threads - 1) / threads, (int)(65536 / image)));
    for (int l = 0; l < count; l++) {
        shape s = trunk_shape(&t, l, t.group);
        plan p = plan_bands(&s, t.group, t.threads_share_layers ? threads : 1);
        size_t size = conv_scratch(&s, &p);
        bands = size > bands ? size : bands;
    }
    t.buffer = ((size_t)t.group * image + 15) / 16 * 16 + 16;
    t.buffers_at = (filters + 15) / 16 * 16;
    t.bands_at = t.buffers_at + 3 * t.buffer;
    if (pool_reserve(t.bands_at + bands + 64)) return -1;
    t.room = pool_scratch(0);
    pool_run(fold_job, &t);
    if (!t.threads_share_layers) pool_run(trunk_job, &t);
    else for (t.layer = 0; t.layer < count; t.layer++) pool_run(trunk_job, &t);
    return 0;
}

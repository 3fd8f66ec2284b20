// 3x3 convolutions of images (N, H, W, C) with filters (3, 3, C, F), padding 1, stride 1 or 2: the kernel of Conv2d.
//
// Threads share bands of the images. Per band: load (with what stands before), convolve, write (with what stands
// behind). Stride 1 goes by Winograd's F(4x4, 3x3) unless `exact` or too few channels ask for the direct sum; stride 2
// is direct. Inside, channels of outputs are padded with zeros to P = padded(F), a multiple of GROUP.
#pragma once
#include "band.h"
#ifdef BF16
typedef struct { int across, down, count; } tiles;
#else
#include "winograd.h"
#endif

typedef struct { int N, H, W, C, F, stride, winograd; } shape;
INLINE int out_size(int size, int stride) { return (size - 1) / stride + 1; }

// Bands of R output rows (a multiple of 4 but for the last) or groups of G whole images, about 48k floats each.
typedef struct { int G, R, groups, bands, items; } plan;
static plan plan_bands(const shape *s, int N, int threads) {
    int OH = out_size(s->H, s->stride), OW = out_size(s->W, s->stride);
    long row = (long)(OW + 2) * (s->stride * s->stride * padded(s->C) + padded(s->F)), whole = row * (up(OH, 4) + 2);
    plan p = {1, up(OH, 4), N, 1, N};
    if (whole > 49152) {
        p.R = most(4, (int)(49152 / row) / 4 * 4);
        p.bands = (OH + p.R - 1) / p.R;
        p.R = up((OH + p.bands - 1) / p.bands, 4);
        p.bands = (OH + p.R - 1) / p.R;
    } else {
        p.G = most(1, least((int)(49152 / whole), (N + threads - 1) / threads));
        p.groups = (N + p.G - 1) / p.G;
    }
    p.items = p.groups * p.bands;
    return p;
}

// Where item k of a plan lies, and the bands in scratch memory that it needs.
typedef struct { int n, G, first, R; tiles t; } item;
INLINE item item_at(const plan *p, int k, int N, int OH, int OW) {
    item it = {k / p->bands * p->G, 0, k % p->bands * p->R, 0, {0, 0, 0}};
    it.G = least(p->G, N - it.n);
    it.R = least(p->R, OH - it.first);
    it.t.across = (OW + 3) / 4;
    it.t.down = (it.R + 3) / 4;
    it.t.count = it.G * it.t.across * it.t.down;
    return it;
}
// Floats of a band of G images of R (rounded up to 4) rows and `width` pixels of C channels, a little slack behind.
INLINE size_t band_floats(const plan *p, int stride, int halo, int OW, int C) {
    return (size_t)p->G * (stride * up(p->R, 4) + halo) * (stride * up(OW, 4) + halo) * C + 64;
}

typedef struct { shape s; source in; const float *filters; sink out; } conv;   // filters: U, or (3, 3, C, P)
// dz: gradient of the convolution's output; in: its input; back: filters for dx (U or packed, see pack_backward), NULL
// for no dx; dx: where that goes; dW_part: this thread's sums, (36, Cb, P) or (9, C, P), NULL for no dW.
typedef struct { shape s; source dz, in; const float *back; sink dx; } conv_grad;

#ifdef BF16
#include "conv_bf16.h"
#else

INLINE int band_channels(const shape *s) { return s->winograd ? padded(s->C) : s->C; }

static size_t conv_scratch(const shape *s, const plan *p) {
    int OW = out_size(s->W, s->stride), P = padded(s->F), Cb = padded(s->C);
    return band_floats(p, s->stride, 2, OW, Cb) + band_floats(p, 1, 0, OW, P) + winograd_scratch(Cb, P);
}

// A batch of tiles from Winograd's last step to where the sink wants them. The tiles' first row of pixels is `row` of image n;
// what lies beyond H or W is left out. gather (3, P): an origin and two sums of every channel over the item, where the sink
// wants sums or moments.
INLINE void store_tiles_as(const enum sink_kind kind, const int moments, const sink *s, const tiles *t, int first, int count,
                           const float *half, int n, int row, int H, int W, int C, int P, float *gather) {
    for (int k = first; k < first + count; k++) {
        int g = k / (t->across * t->down), rest = k % (t->across * t->down);
        int i0 = row + rest / t->across * 4, j0 = rest % t->across * 4, rows = least(4, H - i0), cols = least(4, W - j0);
        size_t corner = pixel_of(s, n + g, i0, j0, H, W) * C, line = (size_t)(W + 2 * s->pad) * C;
        for (int c = 0; c < C; c += VL) {
            int valid = least(VL, C - c);
            vec mean = {0}, scale = {0}, shift = {0}, origin = {0}, sum = {0}, product = {0};
            if (kind == MASK) mean = load(s->bn.mean + c), scale = load(s->bn.scale + c);
            if (kind != STORE && kind != ADD_MASKED) shift = load(s->bn.shift + c);
            if (moments) origin = load(gather + c);
            for (int q = 0; q < cols; q++) {
                vec y[4];
                output_column(half, k - first, q, c, P, y);
                if (moments && k == 0 && q == 0) store(gather + c, origin = y[0]);
                UNROLL for (int i = 0; i < 4; i++) {
                    if (i >= rows) break;
                    size_t at = corner + i * line + (size_t)q * C + c;
                    if (kind == MASK) {
                        vec centred = load_n(s->z + at, valid) - mean;
                        y[i] = where(centred * scale + shift > 0, y[i]);
                        sum += y[i];
                        product += y[i] * centred;
                    } else if (moments) {
                        sum += y[i] - origin;
                        product += (y[i] - origin) * (y[i] - origin);
                    } else y[i] = finished(kind, s, y[i], shift, shortcut_line(kind, &s->cut, n + g, i0 + i), i0 + i, j0 + q, c, valid);
                    store_n(s->out + at, y[i], valid);
                }
            }
            if (kind != MASK && !moments) continue;
            store(gather + P + c, load(gather + P + c) + sum);
            store(gather + 2 * P + c, load(gather + 2 * P + c) + product);
        }
    }
}

static void winograd_store(const sink *s, const tiles *t, const float *band, int Cb, const float *U, int P, int n, int row,
                           int H, int W, int C, double pixels, float *scratch) {
    float *gather = scratch;
    memset(gather, 0, 3 * P * sizeof(float));
    scratch += 3 * P;
    for (int first = 0; first < t->count; first += BATCH) {
        int count = least(BATCH, t->count - first);
        const float *half = winograd_half(t, first, count, band, Cb, U, P, scratch);
#define AS(kind, moments) store_tiles_as(kind, moments, s, t, first, count, half, n, row, H, W, C, P, gather); break
        switch (s->kind) {
        case BIAS_RELU: AS(BIAS_RELU, 0);
        case RESIDUAL_RELU: AS(RESIDUAL_RELU, 0);
        case ADD_MASKED: AS(ADD_MASKED, 0);
        case MASK: AS(MASK, 0);
        case STORE: if (s->moments) { AS(STORE, 1); } else { AS(STORE, 0); }
        }
    }
    for (int c = 0; c < P && s->moments; c += VL)
        join_moments(pixels, load(gather + c), load(gather + P + c), load(gather + 2 * P + c), P, s->moments + c);
    for (int c = 0; c < 2 * P && s->kind == MASK; c++) s->sums[c] += gather[P + c];
}

// Items from .. to - 1 for images offset .. offset + N - 1; buffer is this thread's.
static void conv_items(const conv *c, const plan *p, int offset, int N, int from, int to, float *buffer) {
    const shape *s = &c->s;
    int OH = out_size(s->H, s->stride), OW = out_size(s->W, s->stride), P = padded(s->F), Cb = band_channels(s);
    float *band = buffer, *out = band + band_floats(p, s->stride, 2, OW, padded(s->C));
    float *scratch = out + band_floats(p, 1, 0, OW, P);
    for (int k = from; k < to; k++) {
        item it = item_at(p, k, N, OH, OW);
        int n = offset + it.n, cols = s->winograd ? 4 * it.t.across : OW, rows = s->winograd ? 4 * it.t.down : it.R;
        int in_rows = s->stride == 1 ? rows + 2 : 2 * rows + 1, in_cols = s->stride == 1 ? cols + 2 : 2 * cols + 1;
        const float *in = band;
        if (c->in.kind == PADDED) {
            in_rows = s->H + 2, in_cols = s->W + 2;
            in = c->in.a + ((size_t)n * in_rows + s->stride * it.first) * in_cols * Cb;
        } else load_band(&c->in, s->H, s->W, s->C, n, it.G, s->stride * it.first - 1, in_rows, 1, in_cols - 1 - s->W, Cb, band);
        if (c->out.pad) clear_border(&c->out, n, it.G, it.first, it.R, OH, OW, s->F);
        if (s->winograd) {
            winograd_store(&c->out, &it.t, in, Cb, c->filters, P, n, it.first, OH, OW, s->F, (double)it.G * it.R * OW, scratch);
            continue;
        }
        ptrdiff_t out_row = (ptrdiff_t)cols * P, in_row = (ptrdiff_t)in_cols * Cb;
        for (int g = 0; g < it.G; g++)
            for (int i = 0; i < it.R; i++) {
                float *line = out + (g * rows + i) * out_row;
                multiply(OW, P, 3, 3 * Cb, in + ((ptrdiff_t)g * in_rows + s->stride * i) * in_row, s->stride * Cb, 1, in_row,
                         c->filters, P, 3 * Cb * P, line, P, 0);
                store_row(&c->out, n + g, it.first + i, OH, OW, s->F, P, line);
            }
        if (c->out.moments) add_moments(out, it.G, it.R, OW, out_row, rows * out_row, P, c->out.moments);
    }
}

static size_t conv_grad_scratch(const shape *s, const plan *p) {
    int OW = out_size(s->W, s->stride), P = padded(s->F), Cb = padded(s->C);
    return band_floats(p, 1, 2, OW, P) + band_floats(p, s->stride, 2, OW, Cb) + winograd_scratch(most(P, Cb), most(P, Cb));
}

// dx of stride 2, one of four classes of pixels (2 i + a, 2 j + b): only taps of matching parity meet it, 1 + a rows and
// 1 + b columns of them, and along a row of dz they are neighbours.
static void direct_dx_stride2(const item *it, const float *dz, ptrdiff_t dz_row, int P, const float *back, int Cb, int OW,
                              float *out) {
    ptrdiff_t out_row = (ptrdiff_t)2 * OW * Cb;
    for (int a = 0; a < 2; a++)
        for (int b = 0; b < 2; b++) {
            for (int g = 0; g < it->G; g++)
                for (int i = 0; i < it->R; i++)
                    multiply(OW, Cb, 1 + a, (1 + b) * P, dz + (g * (it->R + 1) + i) * dz_row, P, 1, dz_row, back, Cb,
                             (ptrdiff_t)(1 + b) * P * Cb, out + (2 * (g * it->R + i) + a) * out_row + b * Cb, 2 * Cb, 0);
            back += (size_t)(1 + a) * (1 + b) * P * Cb;
        }
}

static void conv_grad_items(const conv_grad *c, const plan *p, int from, int to, float *dW_part, float *buffer) {
    const shape *s = &c->s;
    int OH = out_size(s->H, s->stride), OW = out_size(s->W, s->stride), P = padded(s->F), Cp = padded(s->C);
    int Cb = s->winograd && s->C >= 8 ? Cp : s->C, halo = s->stride == 1;
    float *dz = buffer, *band = dz + band_floats(p, 1, 2, OW, P);
    float *scratch = band + band_floats(p, s->stride, 2, OW, Cp);
    for (int k = from; k < to; k++) {
        item it = item_at(p, k, s->N, OH, OW);
        int cols = s->winograd ? 4 * it.t.across : OW, rows = s->winograd ? 4 * it.t.down : it.R;
        int dz_cols = cols + 1 + halo, dz_rows = rows + 1 + halo;
        ptrdiff_t dz_row = (ptrdiff_t)dz_cols * P;
        load_band(&c->dz, OH, OW, s->F, it.n, it.G, it.first - halo, dz_rows, halo, dz_cols - halo - OW, P, dz);
        if (c->back) {
            ptrdiff_t out_row = (ptrdiff_t)s->stride * cols * Cp;
            int count = s->winograd ? 0 : least(s->stride * it.R, s->H - s->stride * it.first);
            if (s->winograd)
                winograd_store(&c->dx, &it.t, dz, P, c->back, Cp, it.n, it.first, s->H, s->W, s->C, 0, scratch);
            else if (s->stride == 2) direct_dx_stride2(&it, dz, dz_row, P, c->back, Cp, OW, band);
            else
                for (int g = 0; g < it.G; g++)
                    for (int i = 0; i < it.R; i++)
                        multiply(OW, Cp, 3, 3 * P, dz + (g * dz_rows + i) * dz_row, P, 1, dz_row, c->back, Cp, 3 * P * Cp,
                                 band + (g * rows + i) * out_row, Cp, 0);
            for (int g = 0; g < it.G; g++)
                for (int i = 0; i < count; i++)
                    store_row(&c->dx, it.n + g, s->stride * it.first + i, s->H, s->W, s->C, Cp,
                              band + (g * s->stride * rows + i) * out_row);
        }
        if (dW_part) {
            int in_rows = s->stride == 1 ? rows + 2 : 2 * rows + 1, in_cols = s->stride == 1 ? cols + 2 : 2 * cols + 1;
            ptrdiff_t in_row = (ptrdiff_t)in_cols * Cb;
            const float *inner = dz + halo * (dz_row + P);
            load_band(&c->in, s->H, s->W, s->C, it.n, it.G, s->stride * it.first - 1, in_rows, 1, in_cols - 1 - s->W, Cb, band);
            if (s->winograd && s->C >= 8)
                winograd_filters(&it.t, band, Cb, inner, P, dz_row, dz_rows * dz_row, dW_part, scratch);
            else
                for (int g = 0; g < it.G; g++)
                    for (int q = 0; q < 3; q++)
                        multiply(3 * Cb, P, it.R, OW, band + (g * in_rows + q) * in_row, 1, s->stride * Cb, s->stride * in_row,
                                 inner + g * dz_rows * dz_row, P, dz_row, dW_part + (size_t)q * 3 * Cb * P, P, 1);
        }
    }
}

// dW (3, 3, C, F) += the sums of all threads, for the channels of thread t.
static void add_filter_gradient(const shape *s, float *const *parts, int part_count, int t, int threads, float *dW) {
    int P = padded(s->F), wino = s->winograd && s->C >= 8, Cb = wino ? padded(s->C) : s->C, points = wino ? 36 : 9, from, to;
    size_t plane = (size_t)Cb * P;
    share(s->C, t, threads, &from, &to);
    for (int c = from; c < to; c++)
        for (int f = 0; f < s->F; f += VL) {
            float u[36 * VL], g[9 * VL];
            for (int k = 0; k < points; k++) {
                vec sum = {0};
                for (int other = 0; other < part_count; other++) sum += load(parts[other] + k * plane + (size_t)c * P + f);
                store(u + k * VL, sum);
            }
            if (wino) filter_gradient_transform(u, 6 * VL, VL, g, 3 * VL, VL);
            for (int k = 0; k < 9; k++) {
                float *w = dW + ((size_t)k * s->C + c) * s->F + f;
                int n = s->F - f;
                store_n(w, load_n(w, n) + load((wino ? g : u) + k * VL), n);
            }
        }
}

// Whether kernels read the filters as `transform` leaves them, in U, or packed.
INLINE int transformed(const shape *s) { return s->winograd; }
INLINE void transform(const float *packed, int rows, int cols, const shape *s, int backward, float *U, int t, int threads) {
    (void)backward;
    int from, to;
    share(rows, t, threads, &from, &to);
    if (s->winograd) transform_filters(packed, rows, cols, from, to, U);
}

#endif

// Filters in the form that the kernels read, for the input channels (forward) or output channels (backward) of
// thread t: packed to (3, 3, C, P), and for Winograd with C padded, too, and transformed to U (36, C, P). Those of dx
// are turned round and transposed; for stride 2 they stand in the order of direct_dx_stride2. scale (P) or NULL: a
// factor for every output channel, forward only.
static void prepare_filters(const float *W, const float *scale, const shape *s, int backward, float *packed, float *U,
                            int t, int threads) {
    static const int taps[3][9] = {{0, 1, 2, 3, 4, 5, 6, 7, 8}, {8, 7, 6, 5, 4, 3, 2, 1, 0}, {4, 5, 3, 7, 1, 8, 6, 2, 0}};
    int C = s->C, F = s->F, P = padded(F), Cp = padded(C);
    int rows = backward ? P : band_channels(s), cols = backward ? Cp : P, from, to;
    share(rows, t, threads, &from, &to);
    for (int k = 0; k < 9; k++) {
        const float *w = W + (size_t)taps[backward ? s->stride : 0][k] * C * F;
        float *out = packed + (size_t)k * rows * cols;
        if (backward)
            for (int c = 0; c < Cp; c++)
                for (int f = from; f < to; f++) out[(size_t)f * cols + c] = c < C && f < F ? w[(size_t)c * F + f] : 0;
        else
            for (int c = from; c < to; c++) {
                memset(out + (size_t)c * cols, 0, cols * sizeof(float));
                if (c < C) memcpy(out + (size_t)c * cols, w + (size_t)c * F, F * sizeof(float));
                for (int f = 0; scale && f < F; f++) out[(size_t)c * cols + f] *= scale[f];
            }
    }
    transform(packed, rows, cols, s, backward, U, t, threads);
}

// ---- the drivers: every thread's scratch is [filters, of thread 0 only | sums of dW | doubles | bands] ----

typedef struct {
    shape s;
    plan p;
    const float *W;
    int backward, has_moments, threads;
    source in, dz;
    sink out;
    float *dW;
    size_t sums_at, doubles_at, bands_at;
    int part_count;
    float *parts[256];
} conv_work;

// All threads, or one where the work (in multiply-adds) is less than handing half of it over costs.
INLINE int threads_for(double work) { return work < 1e6 ? 1 : pool_threads(); }

static int set_up(conv_work *w) {
    const shape *s = &w->s;
    int P = padded(s->F), Cp = padded(s->C), wide = most(P, Cp);
    w->threads = threads_for((double)s->N * out_size(s->H, s->stride) * out_size(s->W, s->stride) * s->C * s->F * 9);
    w->p = plan_bands(s, s->N, w->threads);
    w->sums_at = (size_t)45 * Cp * P;
    w->doubles_at = w->sums_at + (w->dW ? (size_t)36 * Cp * P : 0);
    w->bands_at = w->doubles_at + (size_t)2 * 3 * wide;
    size_t bands = w->backward ? conv_grad_scratch(s, &w->p) : conv_scratch(s, &w->p);
    return pool_reserve(w->bands_at + bands + 64);
}

static void prepare_job(void *context, int t, int threads) {
    conv_work *w = context;
    float *packed = pool_scratch(0), *U = packed + (size_t)9 * padded(w->s.C) * padded(w->s.F);
    prepare_filters(w->W, NULL, &w->s, w->backward, packed, U, t, threads);
}

static const float *prepared(const conv_work *w) {
    return pool_scratch(0) + (transformed(&w->s) ? (size_t)9 * padded(w->s.C) * padded(w->s.F) : 0);
}

static void forward_job(void *context, int t, int threads) {
    conv_work *w = context;
    float *mine = pool_scratch(t);
    double *doubles = (double *)(mine + w->doubles_at);
    conv c = {w->s, w->in, prepared(w), w->out};
    memset(doubles, 0, sizeof(double) * 3 * padded(w->s.F));
    if (w->has_moments) c.out.moments = doubles;
    int from, to;
    share(w->p.items, t, threads, &from, &to);
    conv_items(&c, &w->p, 0, w->s.N, from, to, mine + w->bands_at);
}

static void backward_job(void *context, int t, int threads) {
    conv_work *w = context;
    float *mine = pool_scratch(t);
    double *doubles = (double *)(mine + w->doubles_at);
    conv_grad c = {w->s, w->dz, w->in, w->W ? prepared(w) : NULL, w->out};
    int P = padded(w->s.F), Cp = padded(w->s.C), from, to;
    memset(doubles, 0, sizeof(double) * 2 * Cp);
    c.dx.sums = doubles;
    if (w->dW) memset(mine + w->sums_at, 0, sizeof(float) * 36 * Cp * P);
    share(w->p.items, t, threads, &from, &to);
    conv_grad_items(&c, &w->p, from, to, w->dW ? mine + w->sums_at : NULL, mine + w->bands_at);
}

static void add_job(void *context, int t, int threads) {
    conv_work *w = context;
    add_filter_gradient(&w->s, w->parts, w->part_count, t, threads, w->dW);
}

// moments: NULL, or what is to be filled with count, mean and squared deviations of every output channel, (3, P).
static int conv_forward(const shape *s, const source *in, const float *W, const sink *out, double *moments) {
    conv_work w = {.s = *s, .W = W, .in = *in, .out = *out, .has_moments = moments != NULL};
    if (set_up(&w)) return -1;
    int filters = threads_for(450. * s->C * s->F);
    pool_run_on(filters, prepare_job, &w);
    pool_run_on(w.threads, forward_job, &w);
    int P = padded(s->F);
    for (int t = 0; moments && t < w.threads; t++) {
        const double *m = (double *)(pool_scratch(t) + w.doubles_at);
        for (int c = 0; c < P; c++) {
            double before = moments[c], count = before + m[c], delta = m[P + c] - moments[P + c];
            if (m[c] == 0) continue;
            moments[c] = count;
            moments[P + c] += delta * m[c] / count;
            moments[2 * P + c] += m[2 * P + c] + delta * delta * before * m[c] / count;
        }
    }
    return 0;
}

// W NULL: no dx; dW NULL: no gradient of the filters; sums (2, Cp): filled by the sink MASK, or NULL.
static int conv_backward(const shape *s, const source *dz, const source *in, const float *W, const sink *dx, float *dW,
                         double *sums) {
    conv_work w = {.s = *s, .W = W, .in = *in, .dz = *dz, .out = *dx, .dW = dW, .backward = 1};
    if (set_up(&w)) return -1;
    int threads = w.threads, filters = threads_for(450. * s->C * s->F);
    if (W) pool_run_on(filters, prepare_job, &w);
    pool_run_on(threads, backward_job, &w);
    w.part_count = threads;
    for (int t = 0; t < threads; t++) w.parts[t] = pool_scratch(t) + w.sums_at;
    if (dW) pool_run_on(filters, add_job, &w);
    for (int t = 0; sums && t < threads; t++)
        for (int c = 0; c < 2 * padded(s->C); c++) sums[c] += ((double *)(pool_scratch(t) + w.doubles_at))[c];
    return 0;
}

// The kernels of Conv2d.forward and .backward (kernel 3, padding 1, no bias): y = x * W; dW += ..., dx = ... or NULL.
int API(conv3x3)(int N, int H, int W, int C, int F, int stride, int exact, const float *x, const float *filters, float *y) {
    shape s = {N, H, W, C, F, stride, stride == 1 && !exact && C >= 8};
    source in = {.kind = PLAIN, .a = x};
    sink out = {.kind = STORE, .out = y};
    return conv_forward(&s, &in, filters, &out, NULL);
}

int API(conv3x3_backward)(int N, int H, int W, int C, int F, int stride, int exact, const float *x, const float *filters,
                          const float *dy, float *dx, float *dW) {
    shape s = {N, H, W, C, F, stride, stride == 1 && !exact};
    source in = {.kind = PLAIN, .a = x}, dz = {.kind = PLAIN, .a = dy};
    sink out = {.kind = STORE, .out = dx};
    return conv_backward(&s, &dz, &in, dx ? filters : NULL, &out, dW, NULL);
}

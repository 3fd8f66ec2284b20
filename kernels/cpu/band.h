// What goes into a convolution and what comes out of it, row by row.
//
// A kernel works on a band: some rows of one image, or some small whole images, copied into scratch memory with the
// border of zeros around them. What stands before the convolution is applied in that copy (the source), what stands
// behind it when the finished band is written out (the sink), so neither costs a pass over main memory.
#pragma once
#ifdef BF16
#include "bf16.h"
typedef half cell;                      // what a band consists of
INLINE void store_cells(cell *p, vec v, int n) { store_halves(p, v, n); }
#else
#include "simd.h"
typedef float cell;
INLINE void store_cells(cell *p, vec v, int n) { store_n(p, v, n); }
#endif

// Per-channel constants of one batch normalisation, each padded with zeros to a multiple of GROUP channels:
// forward gives (z - mean) * scale + shift; backward sets scale = k0, slope = k1, shift = k2 (see bn_backward).
typedef struct { const float *mean, *scale, *shift, *slope; } channels;

enum source_kind {
    PLAIN,              // a
    NORM_RELU,          // max((a - mean) * scale + shift, 0)
    NORM_GRAD,          // a * scale + (z - mean) * slope + shift: the gradient of what went into a batch norm
    NORM_GRAD_RELU,     // the same with a * (y > 0) for a: the ReLU behind it, too
    PADDED,             // a as (N, H + 2, W + 2, C) with its border of zeros: used where it lies, not copied
};
typedef struct { enum source_kind kind; const float *a, *y, *z; channels bn; } source;

// n: how many of the VL channels there are; m: how many the band has room for. Both constants where they fill a vector.
INLINE void load_line(const enum source_kind kind, const source *s, size_t at, int W, int C, int Cb, int c, int n, int m,
                      cell *dst) {
    vec mean = {0}, scale = {0}, shift = {0}, slope = {0};
    if (kind != PLAIN) mean = load(s->bn.mean + c), scale = load(s->bn.scale + c), shift = load(s->bn.shift + c);
    if (kind == NORM_GRAD || kind == NORM_GRAD_RELU) slope = load(s->bn.slope + c);
    const float *pa = s->a + at, *py = s->y + at, *pz = s->z + at;
    for (int j = 0; j < W; j++, pa += C, py += C, pz += C, dst += Cb) {
        vec a = load_n(pa, n);
        if (kind == NORM_RELU) a = relu((a - mean) * scale + shift);
        if (kind == NORM_GRAD_RELU) a = where(load_n(py, n) > 0, a);
        if (kind == NORM_GRAD || kind == NORM_GRAD_RELU) a = a * scale + ((load_n(pz, n) - mean) * slope + shift);
        store_cells(dst, a, m);
    }
}

INLINE void load_row_as(const enum source_kind kind, const source *s, size_t pixel, int W, int C, int Cb, cell *dst) {
    for (int c = 0; c < Cb; c += VL)
        if (C - c >= VL) load_line(kind, s, pixel * C + c, W, C, Cb, c, VL, VL, dst + c);
        else load_line(kind, s, pixel * C + c, W, C, Cb, c, most(0, C - c), Cb - c, dst + c);
}

static void load_row(const source *s, size_t pixel, int W, int C, int Cb, cell *dst) {
    switch (s->kind) {
    case PLAIN:
        if (C == Cb && sizeof(cell) == sizeof(float)) memcpy(dst, s->a + pixel * C, (size_t)W * C * sizeof(cell));
        else load_row_as(PLAIN, s, pixel, W, C, Cb, dst);
        break;
    case NORM_RELU: load_row_as(NORM_RELU, s, pixel, W, C, Cb, dst); break;
    case NORM_GRAD: load_row_as(NORM_GRAD, s, pixel, W, C, Cb, dst); break;
    case NORM_GRAD_RELU: load_row_as(NORM_GRAD_RELU, s, pixel, W, C, Cb, dst); break;
    case PADDED: break;
    }
}

// Rows first .. first + rows - 1 of images n .. n + G - 1 (H x W x C) as (G, rows, left + W + right, Cb); what lies
// outside of the image, and channels from C on, are zeros.
static void load_band(const source *s, int H, int W, int C, int n, int G, int first, int rows, int left, int right,
                      int Cb, cell *dst) {
    size_t width = (size_t)(left + W + right) * Cb;
    for (int g = 0; g < G; g++)
        for (int r = first; r < first + rows; r++, dst += width) {
            if (r < 0 || r >= H) { memset(dst, 0, width * sizeof(cell)); continue; }
            memset(dst, 0, (size_t)left * Cb * sizeof(cell));
            load_row(s, ((size_t)(n + g) * H + r) * W, W, C, Cb, dst + left * Cb);
            memset(dst + (size_t)(left + W) * Cb, 0, (size_t)right * Cb * sizeof(cell));
        }
}

enum sink_kind {
    STORE,              // out = o
    BIAS_RELU,          // out = max(o + shift, 0)
    RESIDUAL_RELU,      // out = max(o + shift + shortcut, 0)
    MASK,               // out = o where (z - mean) * scale + shift > 0, else 0; sums of out and out * (z - mean)
    ADD_MASKED,         // out = o + the shortcut's gradient: dy where y > 0
};
// The shortcut of a block, forward or backward: channels before .. before + C of pixels (stride i, stride j). pad: how wide a
// border of zeros its other end has.
typedef struct { int stride, H, W, C, before, pad; } shortcut;
typedef struct {
    enum sink_kind kind;
    int pad;                            // the width of out's border, which is set to zero
    float *out;
#ifdef BF16
    half *copy;                         // NULL, or where the trunk wants outputs rounded, with a border; then out may be NULL
#endif
    const float *y, *z;                 // z of MASK; y of ADD_MASKED and RESIDUAL_RELU (there: the block's input)
    const float *dy;
    channels bn;
    shortcut cut;
    double *sums;                       // of this thread: (2, channels), or NULL
    double *moments;                    // of this thread: (3, channels) count, mean, squared deviations, or NULL
} sink;

// Up to VL channels of the shortcut of a block from channel c on, zeros where it has none; p: the input's pixel.
INLINE vec shortcut_value(const float *p, int C, int before, int c, int valid) {
    if (before == 0 && c + VL <= C) return load(p + c);
    float v[VL] = {0};
    for (int k = 0; k < least(VL, valid); k++) {
        int from = c + k - before;
        if (from >= 0 && from < C) v[k] = p[from];
    }
    return load(v);
}

// Where the shortcut of row i starts at its other end: in the block's input (RESIDUAL_RELU) or output (ADD_MASKED).
INLINE size_t shortcut_line(const enum sink_kind kind, const shortcut *t, int n, int i) {
    if (kind == RESIDUAL_RELU)
        return (((size_t)n * (t->H + 2 * t->pad) + (size_t)i * t->stride + t->pad) * (t->W + 2 * t->pad) + t->pad) * t->C;
    if (kind == ADD_MASKED) return ((size_t)n * t->H + i / t->stride) * t->W * t->C + t->before;
    return 0;
}

// What the sink makes of output a of pixel (i, j), channels c ...; all kinds but MASK, which gathers sums.
INLINE vec finished(const enum sink_kind kind, const sink *s, vec a, vec shift, size_t line, int i, int j, int c, int valid) {
    const shortcut *t = &s->cut;
    if (kind == BIAS_RELU || kind == RESIDUAL_RELU) a += shift;
    if (kind == RESIDUAL_RELU)
        a += shortcut_value(s->y + line + (size_t)j * t->stride * t->C, t->C, t->before, c, valid);
    if (kind == BIAS_RELU || kind == RESIDUAL_RELU) a = relu(a);
    if (kind == ADD_MASKED && ((i | j) & (t->stride - 1)) == 0) {                    // strides are 1 or 2
        size_t other = line + c + (size_t)(j >> (t->stride - 1)) * t->C;
        a += where(load_n(s->y + other, valid) > 0, load_n(s->dy + other, valid));
    }
    return a;
}

INLINE size_t pixel_of(const sink *s, int n, int i, int j, int H, int W) {
    return ((size_t)n * (H + 2 * s->pad) + i + s->pad) * (W + 2 * s->pad) + j + s->pad;
}

// The border around rows first .. first + R - 1 of images n .. n + G - 1.
INLINE void clear_border(const sink *s, int n, int G, int first, int R, int H, int W, int C) {
    size_t row = (size_t)(W + 2) * C, pixel = C * sizeof(float);
    for (int g = n; g < n + G; g++)
        for (int i = first ? first : -1; i < (first + R == H ? H + 1 : first + R); i++) {
            float *p = s->out + (pixel_of(s, g, i, 0, H, W) - 1) * C;
            memset(p, 0, i < 0 || i == H ? row * sizeof(float) : pixel);
            memset(p + row - C, 0, pixel);
        }
}

// Row i of image n, channels c ..., of which `valid` exist: a constant where they fill a vector.
INLINE void store_line(const enum sink_kind kind, const sink *s, int n, int i, int H, int W, int C, int Cb, int c, int valid,
                       const float *o) {
    size_t at = pixel_of(s, n, i, 0, H, W) * C + c, line = shortcut_line(kind, &s->cut, n, i);
    vec mean = {0}, scale = {0}, shift = {0}, sum = {0}, product = {0};
    if (kind == MASK) mean = load(s->bn.mean + c), scale = load(s->bn.scale + c);
    if (kind != STORE && kind != ADD_MASKED) shift = load(s->bn.shift + c);
    const float *pz = s->z + at;
    float *out = s->out + at;
    for (int j = 0; j < W; j++, o += Cb, pz += C, out += C) {
        vec a = load(o);
        if (kind == MASK) {
            vec centred = load_n(pz, valid) - mean;
            a = where(centred * scale + shift > 0, a);
            sum += a;
            product += a * centred;
        } else a = finished(kind, s, a, shift, line, i, j, c, valid);
#ifdef BF16
        if (s->copy && (kind == BIAS_RELU || kind == RESIDUAL_RELU))
            store_halves(s->copy + (((size_t)n * (H + 2) + i + 1) * (W + 2) + j + 1) * C + c, a, VL);
        if (!s->out && kind == BIAS_RELU) continue;
#endif
        store_n(out, a, valid);
    }
    if (kind == MASK)
        for (int k = 0; k < valid; k++) {
            s->sums[c + k] += sum[k];
            s->sums[Cb + c + k] += product[k];
        }
}

INLINE void store_row_as(const enum sink_kind kind, const sink *s, int n, int i, int H, int W, int C, int Cb,
                         const float *o) {
    for (int c = 0; c < C; c += VL)
        if (C - c >= VL) store_line(kind, s, n, i, H, W, C, Cb, c, VL, o + c);
        else store_line(kind, s, n, i, H, W, C, Cb, c, C - c, o + c);
}

static void store_row(const sink *s, int n, int i, int H, int W, int C, int Cb, const float *o) {
    switch (s->kind) {
    case STORE: store_row_as(STORE, s, n, i, H, W, C, Cb, o); break;
    case BIAS_RELU: store_row_as(BIAS_RELU, s, n, i, H, W, C, Cb, o); break;
    case RESIDUAL_RELU: store_row_as(RESIDUAL_RELU, s, n, i, H, W, C, Cb, o); break;
    case MASK: store_row_as(MASK, s, n, i, H, W, C, Cb, o); break;
    case ADD_MASKED: store_row_as(ADD_MASKED, s, n, i, H, W, C, Cb, o); break;
    }
}

// Of `count` outputs of channels c ..., taken relative to `origin`, their sum and sum of squares: mean and squared deviations
// join those of the thread (Chan et al. 1983). An origin among the values: a mean far from zero cancels nothing.
static void join_moments(double count, vec origin, vec total, vec squares, int Cb, double *moments) {
    for (int k = 0; k < VL; k++) {
        double *m = moments + k, before = m[0];
        double mean = origin[k] + total[k] / count, M2 = squares[k] - (double)total[k] * total[k] / count;
        double delta = mean - m[Cb];
        m[0] = before + count;
        m[Cb] += delta * count / m[0];
        m[2 * Cb] += M2 + delta * delta * before * count / m[0];
    }
}

// The moments of a band (G, rows, W, Cb), its images and rows so many floats apart.
static void add_moments(const float *o, int G, int rows, int W, size_t row, size_t image, int Cb, double *moments) {
    for (int c = 0; c < Cb; c += VL) {
        vec origin = load(o + c), total = {0}, squares = {0};
        for (int g = 0; g < G; g++)
            for (int i = 0; i < rows; i++) {
                const float *p = o + g * image + i * row + c;
                for (int j = 0; j < W; j++) {
                    vec d = load(p + (size_t)j * Cb) - origin;
                    total += d;
                    squares += d * d;
                }
            }
        join_moments((double)G * rows * W, origin, total, squares, Cb, moments + c);
    }
}

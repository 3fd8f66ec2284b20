// Direct 3x3 convolutions with rounded factors: what conv.h's drivers call in place of Winograd's and of direct sums in float32.
//
// A band holds bfloat16; batch norm, ReLU and their gradients are applied in float32 before a number is rounded. Where the
// stride is 1, a band's pixels are one sequence, with the borders between rows, and so are its outputs: those that fall on
// borders are computed and left out, which costs 2 of W + 2 and fills the tiles for images of any size. For the gradient of
// the filters the sum is over pixels, so it is pixels that stand in pairs: dz is transposed, and of its input the 3 C numbers
// under each row of a filter are copied for every pixel, two pixels in turn,
//
//     dW[p][q C + c][f] = sum over pairs of pixels j, j + 1 of   dz[j][f] in[j + p row][q C + c] + the same of j + 1
//
// with zeros of dz on the borders. (There, a NaN or inf of the input reaches sums that it would not reach by the formula.)
#pragma once

INLINE int band_channels(const shape *s) { return s->C >= VL ? padded(s->C) : up(s->C, 2); }
INLINE int lanes_of(const shape *s) { return up(3 * band_channels(s), VL); }
INLINE int even_cols(const shape *s, int halo) { return up(out_size(s->W, s->stride) + 1 - halo, 2) + 2 * halo; }

// The most pixels of a band, of the input or of the output with borders, and room for what is read behind them.
static size_t band_pixels(const shape *s, const plan *p, int stride) {
    size_t rows = stride * up(p->R, 4) + 2, cols = stride * up(out_size(s->W, s->stride), 2) + 5;
    return p->G * rows * cols + 64;
}
static size_t conv_scratch(const shape *s, const plan *p) {
    return band_pixels(s, p, s->stride) * padded(s->C) + band_pixels(s, p, 1) * padded(s->F);
}
static size_t conv_grad_scratch(const shape *s, const plan *p) {
    size_t out = band_pixels(s, p, 1), in = band_pixels(s, p, s->stride), wide = most(padded(s->C), padded(s->F));
    size_t pairs = (s->stride == 1 ? in : 3 * out) + 32 * (size_t)p->G;
    return out * wide + in * wide + (out + 64 * (size_t)p->G + 64) * padded(s->F) + pairs * lanes_of(s);
}

INLINE right_factor panels(const float *U, int K) { return (right_factor){(const half *)U, (ptrdiff_t)VL * up(3 * K, 2 * VL), (ptrdiff_t)VL * K}; }

// The border of the copies of rows first .. first + R - 1 of images n .. n + G - 1.
static void clear_copy_border(const sink *s, int n, int G, int first, int R, int H, int W, int C) {
    size_t row = (size_t)(W + 2) * C, pixel = C * sizeof(half);
    for (int g = n; g < n + G; g++)
        for (int i = first ? first + 1 : 0; i < (first + R == H ? H + 2 : first + R + 1); i++) {
            half *p = s->copy + ((size_t)g * (H + 2) + i) * row;
            memset(p, 0, i == 0 || i == H + 1 ? row * sizeof(half) : pixel);
            memset(p + row - C, 0, pixel);
        }
}

// Items from .. to - 1 for images offset .. offset + N - 1; buffer is this thread's.
static void conv_items(const conv *c, const plan *p, int offset, int N, int from, int to, float *buffer) {
    const shape *s = &c->s;
    int OH = out_size(s->H, s->stride), OW = out_size(s->W, s->stride), P = padded(s->F), Cb = band_channels(s), K = 3 * Cb;
    int in_cols = c->in.kind == PADDED ? s->W + 2 : s->stride == 1 ? OW + 2 : 2 * OW + 1, out_cols = s->stride == 1 ? in_cols : OW;
    cell *band = (cell *)buffer;
    float *out = buffer + band_pixels(s, p, s->stride) * padded(s->C);
    right_factor filters = panels(c->filters, K);
    for (int k = from; k < to; k++) {
        item it = item_at(p, k, N, OH, OW);
        int n = offset + it.n, in_rows = s->stride == 1 ? it.R + 2 : 2 * it.R + 1;
        const cell *in = band;
        if (c->in.kind == PADDED) in_rows = s->H + 2, in = (const cell *)c->in.a + ((size_t)n * in_rows + s->stride * it.first) * in_cols * Cb;
        else load_band(&c->in, s->H, s->W, s->C, n, it.G, s->stride * it.first - 1, in_rows, 1, in_cols - 1 - s->W, Cb, band);
        if (c->out.copy) clear_copy_border(&c->out, n, it.G, it.first, it.R, OH, OW, P);
        ptrdiff_t in_row = (ptrdiff_t)in_cols * Cb, out_row = (ptrdiff_t)out_cols * P;
        // Some lines at a time, which are stored while they are in the first-level cache.
        int pairs = begin_products(K), most_lines = s->stride == 1 ? most(1, 6144 / (int)out_row) : 1;
        for (int g = 0; g < it.G; g++)
            for (int i = 0, lines; i < it.R; i += lines) {
                lines = least(most_lines, it.R - i);
                float *o = c->out.moments ? out + (g * it.R + i) * out_row : out;
                multiply_halves(s->stride == 1 ? lines * in_cols - 2 : OW, P, 3, K, pairs,
                                (left_factor){in + (g * in_rows + s->stride * i) * in_row, s->stride * Cb, in_row}, filters, o, P, 0);
                for (int r = 0; r < lines; r++) store_row(&c->out, n + g, it.first + i + r, OH, OW, s->F, P, o + r * out_row);
            }
        end_products(pairs);
        if (c->out.moments) add_moments(out, it.G, it.R, OW, out_row, it.R * out_row, P, c->out.moments);
    }
}

// dx of stride 2: see direct_dx_stride2 of conv.h; the filters of each class of pixels are panels of their own.
static void dx_stride2(const item *it, const cell *dz, ptrdiff_t dz_row, int P, const half *back, int Cp, int OW, float *out) {
    ptrdiff_t out_row = (ptrdiff_t)2 * OW * Cp;
    int pairs = begin_products(P);
    for (int a = 0; a < 2; a++)
        for (int b = 0; b < 2; b++) {
            int run = (1 + b) * P, terms = up((1 + a) * run, 2 * VL);
            right_factor filters = {back, (ptrdiff_t)VL * terms, (ptrdiff_t)VL * run};
            for (int g = 0; g < it->G; g++)
                for (int i = 0; i < it->R; i++)
                    multiply_halves(OW, Cp, 1 + a, run, pairs, (left_factor){dz + (g * (it->R + 1) + i) * dz_row, P, dz_row}, filters,
                                    out + (2 * (g * it->R + i) + a) * out_row + b * Cp, 2 * Cp, 0);
            back += (size_t)terms * Cp;
        }
    end_products(pairs);
}

// 16 numbers at a and 16 at b in turn.
INLINE vec pair_up(const cell *a, const cell *b) {
    __m512i low = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)a));
    return in_turn((vec)_mm512_inserti64x4(low, _mm256_loadu_si256((const __m256i *)b), 1));
}

// dst[f][j] = dz[j][f] for j < pixels (even), zeros up to the next multiple of 32.
static void turn_gradient(const cell *dz, int pixels, int P, half *dst, ptrdiff_t row) {
    for (int f = 0; f < P; f += VL)
        for (int j = 0; j < pixels; j += 2 * VL) {
            vec r[VL];
            UNROLL for (int i = 0; i < VL; i++) {
                const cell *at = dz + (size_t)(j + 2 * i) * P + f;
                r[i] = j + 2 * i < pixels ? pair_up(at, at + P) : (vec){0};
            }
            transpose(r);
            UNROLL for (int i = 0; i < VL; i++) store((float *)(dst + (f + i) * row + j), r[i]);
        }
}

// What pixels 0, step, 2 step, ... (2 pairs of them) of a row have under a row of filters, 16 lanes a panel.
static void pair_pixels(const cell *row, int pairs, int step, int Cb, int lanes, half *dst, ptrdiff_t panel) {
    for (int l = 0; l < lanes; l += VL, dst += panel)
        for (int j = 0; j < pairs; j++) {
            const cell *at = row + (size_t)2 * j * step * Cb + l;
            store((float *)(dst + (size_t)j * 2 * VL), pair_up(at, at + step * Cb));
        }
}

// part (3, P, lanes) += the sums of an item. room: behind the bands.
static void filter_gradient(const shape *s, const item *it, const cell *dz, int cols, int dz_rows, const cell *band, int in_cols,
                            int in_rows, float *part, half *room) {
    int P = padded(s->F), Cb = band_channels(s), lanes = lanes_of(s), pixels = it->R * cols, K = up(pixels, 2 * VL), halo = s->stride == 1;
    int rows = halo ? it->R + 2 : 3 * it->R, S = rows * cols / 2 + VL, shift = (halo ? 1 : it->R) * cols / 2;
    ptrdiff_t row = (ptrdiff_t)it->G * K + 2 * VL, panel = (ptrdiff_t)it->G * S * 2 * VL;
    half *turned = room, *paired = turned + P * row;
    for (int g = 0; g < it->G; g++) {
        turn_gradient(dz + ((size_t)(g * dz_rows + halo) * cols + halo) * P, pixels, P, turned + g * K, row);
        for (int r = 0; r < rows; r++)
            pair_pixels(band + (size_t)(g * in_rows + (halo ? r : 2 * (r % it->R) + r / it->R)) * in_cols * Cb, cols / 2, s->stride, Cb, lanes,
                        paired + ((size_t)g * S + (size_t)r * cols / 2) * 2 * VL, panel);
        for (int l = 0; l < lanes / VL; l++)
            memset(paired + l * panel + ((size_t)(g + 1) * S - VL) * 2 * VL, 0, VL * 2 * VL * sizeof(half));
    }
    int pairs = begin_products(2 * VL);
    for (int q = 0; q < 3; q++)
        multiply_halves(P, lanes, it->G, K, pairs, (left_factor){turned, row, K},
                        (right_factor){paired + (size_t)q * shift * 2 * VL, panel, (ptrdiff_t)S * 2 * VL}, part + (size_t)q * P * lanes, lanes, 1);
    end_products(pairs);
}

static void conv_grad_items(const conv_grad *c, const plan *p, int from, int to, float *dW_part, float *buffer) {
    const shape *s = &c->s;
    int OH = out_size(s->H, s->stride), OW = out_size(s->W, s->stride), P = padded(s->F), Cp = padded(s->C), Cb = band_channels(s);
    int halo = s->stride == 1, cols = even_cols(s, halo), in_cols = halo ? cols : 2 * cols + 1, wide = most(P, Cp);
    ptrdiff_t dz_row = (ptrdiff_t)cols * P, out_row = (ptrdiff_t)(halo ? cols : 2 * OW) * Cp;
    cell *dz = (cell *)buffer, *band = dz + band_pixels(s, p, 1) * wide;
    float *out = buffer + halves(band_pixels(s, p, 1)) * wide;               // dx of a band, where the input comes later
    half *room = (half *)(buffer + (band_pixels(s, p, 1) + band_pixels(s, p, s->stride)) * wide);
    for (int k = from; k < to; k++) {
        item it = item_at(p, k, s->N, OH, OW);
        int dz_rows = it.R + 1 + halo, in_rows = halo ? it.R + 2 : 2 * it.R + 1;
        load_band(&c->dz, OH, OW, s->F, it.n, it.G, it.first - halo, dz_rows, halo, cols - halo - OW, P, dz);
        if (c->back) {
            int count = least(s->stride * it.R, s->H - s->stride * it.first);
            if (halo) {
                int pairs = begin_products(3 * P);
                for (int g = 0; g < it.G; g++)
                    multiply_halves(it.R * cols - 2, Cp, 3, 3 * P, pairs, (left_factor){dz + g * dz_rows * dz_row, P, dz_row}, panels(c->back, 3 * P),
                                    out + g * it.R * out_row, Cp, 0);
                end_products(pairs);
            } else dx_stride2(&it, dz, dz_row, P, (const half *)c->back, Cp, OW, out);
            for (int g = 0; g < it.G; g++)
                for (int i = 0; i < count; i++)
                    store_row(&c->dx, it.n + g, s->stride * it.first + i, s->H, s->W, s->C, Cp, out + (g * s->stride * it.R + i) * out_row);
        }
        if (dW_part) {
            load_band(&c->in, s->H, s->W, s->C, it.n, it.G, s->stride * it.first - 1, in_rows, 1, in_cols - 1 - s->W, Cb, band);
            memset(band + (size_t)it.G * in_rows * in_cols * Cb, 0, 4 * VL * Cb * sizeof(cell));
            filter_gradient(s, &it, dz, cols, dz_rows, band, in_cols, in_rows, dW_part, room);
        }
    }
}

// Filters, packed as matrices (9 rows, cols), as panels of pairs; for dx of stride 2 each class of pixels for itself.
INLINE int transformed(const shape *s) { (void)s; return 1; }
static void transform(const float *packed, int rows, int cols, const shape *s, int backward, float *U, int t, int threads) {
    half *dst = (half *)U;
    int from, to, split = backward && s->stride == 2;
    pool_barrier(threads);                                                    // all rows are packed
    share(cols / VL, t, threads, &from, &to);
    for (int k = 0, taps; k < 9; k += taps) {
        taps = !split ? 9 : k == 0 ? 1 : k == 5 ? 4 : 2;
        int K = taps * rows, terms = up(K, 2 * VL);
        for (int j = from; j < to; j++)
            pack_rows(VL, K, packed + (size_t)k * rows * cols + j * VL, 1, cols, 1, dst + (size_t)j * VL * terms, 0);
        dst += (size_t)terms * cols;
    }
}

// dW (3, 3, C, F) += the sums of all threads, of which thread t adds some panels of lanes.
static void add_filter_gradient(const shape *s, float *const *parts, int part_count, int t, int threads, float *dW) {
    int P = padded(s->F), Cb = band_channels(s), lanes = lanes_of(s), from, to;
    share(3 * lanes / VL, t, threads, &from, &to);
    for (int k = from; k < to; k++)
        for (int f = 0; f < s->F; f += VL) {
            int p = k / (lanes / VL), first = k % (lanes / VL) * VL;
            vec r[VL];
            for (int i = 0; i < VL; i++) {
                r[i] = (vec){0};
                for (int other = 0; other < part_count; other++) r[i] += load(parts[other] + ((size_t)p * P + f + i) * lanes + first);
            }
            transpose(r);
            for (int i = 0; i < VL; i++) {
                int q = (first + i) / Cb, c = (first + i) % Cb;
                if (q > 2 || c >= s->C) continue;
                float *w = dW + ((size_t)(3 * p + q) * s->C + c) * s->F + f;
                store_n(w, load_n(w, s->F - f) + r[i], s->F - f);
            }
        }
}

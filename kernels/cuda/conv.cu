// 3x3 convolution, padding 1, channels last, as an implicit matrix product: a row is an output pixel, a column an output
// channel, and the sum runs over 9 taps x C channels. Also the gradient of its input, which is the same product with the
// filters turned round and C and F exchanged. Filters come packed from norm.cu.
// Launch code: emonet_scratch/kernels/cuda/convolution.py.
//
// A block takes tiles of TH x 16 output pixels. It brings the input of a tile with its border into shared memory once, and
// there the source (common.cuh) is applied: the batch norm and ReLU of the layer before, or their backward, cost no pass
// over memory. Each of the 4 warps multiplies TH / 4 rows of 16 pixels by NB channels, tap after tap; its sums stay in
// registers until they go, row by row through shared memory, to the sink, which applies what stands behind the
// convolution. Filters lie in the order of mma's fragments, so a warp reads 256 bytes in a row. A pixel in shared memory is
// padded by 4 words: the 8 pixels x 4 words of a fragment lie in 32 banks.
//
// Bytes a pixel at C = F = 16, without the border (a tile of 8 x 16 reads 10 x 18 pixels, shared ones mostly from L2):
// convolution, batch norm and ReLU in training read x once and write z once, 128 bytes; the next layer normalises z while it
// loads it. In the definition, norm and ReLU alone pass 14 arrays (mean, centred, squares, x_hat, gamma, beta, max), 896.
// 2304 multiply-adds for 128 bytes are 18 a byte: at 3.3 TB/s memory asks for 60 T multiply-adds/s, which float32 units do
// not have and tensor cores do. At C = F = 64 there are 72 a byte, and the products take the time.
//
// Defines: C, F: input and output channels of the product, multiples of 16 or 3; STRIDE 1 or 2; UP 1: the gradient of a
// convolution of stride 2; PRECISION 0 float32, 1 TF32, 2 BF16; TH: rows of a tile, a multiple of 4; NB: output channels of
// a block, 16, 32, 64 or 3, dividing F; KC: input channels in shared memory at once, 16, 32 or 64, dividing C.

#define THREADS 128
#define WARPS 4
#define TW 16
#define MF (TH / WARPS)                 // fragments of a warp: rows of 16 pixels ...
#define NF ((NB + 7) / 8)               // ... by 8 channels
#define FN ((F + 7) / 8)                // of all channels
#define PH (UP ? TH + 1 : STRIDE * (TH - 1) + 3)        // the patch: input of a tile
#define PW (UP ? TW + 1 : STRIDE * (TW - 1) + 3)
#define WORDS (C == 3 ? 3 : PRECISION == 2 ? KC / 2 + 4 : KC + 4)       // of a pixel in shared memory
#define ROW (8 * NF + 8)                // floats of a pixel on its way out
#define KS (PRECISION == 2 ? 16 : 8)    // channels of one mma, which are 8 words

// Where column j of the patch lies: with stride 2 the even ones first, so that neighbours in a fragment are neighbours here.
__device__ __forceinline__ int column(int j) { return STRIDE == 2 && !UP && C != 3 ? (j & 1) * (TW + 1) + j / 2 : j; }

// Channels c0 .. c0 + KC - 1 of the patch whose first pixel is (i0, j0) of image n; zeros outside of the image.
template <int KIND>
__device__ __forceinline__ void load_patch(const Source& s, int n, int i0, int j0, int H, int W, int c0, u32* patch) {
    const int quads = KC / 4;
    int quad = threadIdx.x % quads, c = c0 + 4 * quad;
    float k[4][4];
    load_constants<KIND>(s, C, c, k);
#pragma unroll 4
    for (int at = threadIdx.x / quads; at < PH * PW; at += THREADS / quads) {
        int r = at / PW, q = at % PW, i = i0 + r, j = j0 + q;
        float v[4] = {};
        if (i >= 0 && i < H && j >= 0 && j < W) load_source<KIND>(s, (((i64)n * H + i) * W + j) * C + c, k, v);
        u32* to = patch + (r * PW + column(q)) * WORDS + quad * (PRECISION == 2 ? 2 : 4);
        if (PRECISION == 0) *(float4*)to = make_float4(v[0], v[1], v[2], v[3]);
        if (PRECISION == 1) *(float4*)to = make_float4(to_tf32(v[0]), to_tf32(v[1]), to_tf32(v[2]), to_tf32(v[3]));
        if (PRECISION == 2) *(uint2*)to = make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
    }
}

// The same for images of 3 channels, as floats without gaps.
__device__ __forceinline__ void load_patch3(const float* x, int n, int i0, int j0, int H, int W, float* patch) {
    for (int at = threadIdx.x; at < PH * PW * 3; at += THREADS) {
        int i = i0 + at / (PW * 3), e = at % (PW * 3), j = j0 + e / 3;
        bool inside = i >= 0 && i < H && j >= 0 && j < W;
        float v = inside ? x[(((i64)n * H + i) * W + j) * 3 + e % 3] : 0;
        patch[at] = PRECISION == 1 ? to_tf32(v) : v;
    }
}

__device__ __forceinline__ void mma(float d[4], const u32 a[4], uint2 filter) {
    u32 b[2] = {filter.x, filter.y};
    if (PRECISION == 2) mma_bf16(d, a, b);
    else mma_tf32(d, a, b);
}

// sums += one tap for channels k0 .. of the sum over KC; p: this lane's first pixel in the patch under that tap.
__device__ __forceinline__ void multiply_tap(float sums[MF][NF][4], const u32* p, const u32* filters, int k0, int f0) {
    const int row = (UP ? 1 : STRIDE) * PW * WORDS;
    int lane = threadIdx.x % 32, t = lane % 4;
#if PRECISION == 0
    const float* w = (const float*)filters + f0 + 2 * t;
#pragma unroll 2
    for (int k = 0; k < KC; k += 4) {
        float a[MF][2][4];
        for (int m = 0; m < MF; m++)
            for (int h = 0; h < 2; h++) load4(a[m][h], (const float*)p + m * row + h * 8 * WORDS + k);
#pragma unroll
        for (int e = 0; e < 4; e++)
#pragma unroll
            for (int n = 0; n < NF; n++) {
                float2 b = *(const float2*)(w + (i64)(k0 + k + e) * (8 * FN) + 8 * n);
#pragma unroll
                for (int m = 0; m < MF; m++)
#pragma unroll
                    for (int h = 0; h < 2; h++) {
                        sums[m][n][2 * h] += a[m][h][e] * b.x;
                        sums[m][n][2 * h + 1] += a[m][h][e] * b.y;
                    }
            }
    }
#else
    const uint2* w = (const uint2*)filters + ((k0 / KS) * FN + f0 / 8) * 32 + lane;
    p += t;
#pragma unroll
    for (int k = 0; k < KC / KS; k++) {
        u32 a[MF][4];
#pragma unroll
        for (int m = 0; m < MF; m++)
#pragma unroll
            for (int r = 0; r < 4; r++) a[m][r] = p[m * row + r % 2 * 8 * WORDS + 8 * k + r / 2 * 4];
#pragma unroll
        for (int n = 0; n < NF; n++) {
            uint2 b = w[(k * FN + n) * 32];
#pragma unroll
            for (int m = 0; m < MF; m++) mma(sums[m][n], a[m], b);
        }
    }
#endif
}

// Number k of the 27 that make output pixel p of 3 channels; zero from 27 on.
__device__ __forceinline__ float among27(const float* p, int k) { return k < 27 ? p[k / 9 * (PW * 3) + k % 9] : 0; }

// All taps of 3 channels: one sum of 27, padded to 32. p: this lane's first pixel in the patch.
__device__ __forceinline__ void multiply3(float sums[MF][NF][4], const float* p, const u32* filters, int f0) {
    const int row = STRIDE * PW * 3;
    int lane = threadIdx.x % 32, t = lane % 4;
#if PRECISION == 0
    const float* w = (const float*)filters + f0 + 2 * t;
#pragma unroll 3
    for (int k = 0; k < 27; k++)
#pragma unroll
        for (int n = 0; n < NF; n++) {
            float2 b = *(const float2*)(w + k * (8 * FN) + 8 * n);
#pragma unroll
            for (int m = 0; m < MF; m++)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    float a = p[m * row + h * 8 * STRIDE * 3 + k / 9 * (PW * 3) + k % 9];
                    sums[m][n][2 * h] += a * b.x;
                    sums[m][n][2 * h + 1] += a * b.y;
                }
        }
#else
    const uint2* w = (const uint2*)filters + (f0 / 8) * 32 + lane;
#pragma unroll
    for (int k = 0; k < 32 / KS; k++)
#pragma unroll
        for (int m = 0; m < MF; m++) {
            u32 a[4];
#pragma unroll
            for (int r = 0; r < 4; r++) {
                const float* q = p + m * row + r % 2 * 8 * STRIDE * 3;
                int first = KS * k + r / 2 * (KS / 2) + (PRECISION == 2 ? 2 * t : t);
                float one = among27(q, first);
                a[r] = PRECISION == 2 ? pack_bf16(one, among27(q, first + 1)) : __float_as_uint(one);
            }
#pragma unroll
            for (int n = 0; n < NF; n++) mma(sums[m][n], a, w[(k * FN + n) * 32]);
        }
#endif
}

// ---- what stands behind the convolution ----

enum {
    STORE,              // out = o
    STORE_MOMENTS,      // the same, and count, mean and squared deviations of every channel
    BIAS_RELU,          // out = max(o + shift, 0)
    RESIDUAL_RELU,      // out = max(o + shift + shortcut, 0); first: the block's input, (N, cut_H, cut_W, cut_C)
    MASK,               // out = o ((z - mean) scale + shift > 0) with z = first; sums of out and out (z - mean)
    ADD_MASKED,         // out = o + the shortcut's first (second > 0): dy and y of the block, (N, cut_H, cut_W, cut_C)
};
struct Sink {
    int kind;
    float* out;
    const float *first, *second, *constants;            // constants: (3, F) mean, scale, shift; the shift of a bias: (F)
    int H, W;                                           // of out
    int cut_H, cut_W, cut_C, before, cut_stride;        // the shortcut's other end, see layers.PadShortcut
};

// What becomes of the four numbers o of pixel (n, i, j), channels c ..., number `at` of out. MASK: centred = z - mean.
__device__ __forceinline__ void finish(const Sink& s, int n, int i, int j, int c, i64 at, const float k[3][4], float o[4],
                                       float centred[4]) {
    float cut[4] = {}, sign[4] = {};
    if (s.kind == RESIDUAL_RELU && c >= s.before && c < s.before + s.cut_C)
        load4(cut, s.first + (((i64)n * s.cut_H + i * s.cut_stride) * s.cut_W + j * s.cut_stride) * s.cut_C + c - s.before);
    if (s.kind == ADD_MASKED && i % s.cut_stride == 0 && j % s.cut_stride == 0) {
        i64 other = (((i64)n * s.cut_H + i / s.cut_stride) * s.cut_W + j / s.cut_stride) * s.cut_C + s.before + c;
        load4(cut, s.first + other);
        load4(sign, s.second + other);
    }
    if (s.kind == MASK) load4(centred, s.first + at);
#pragma unroll
    for (int e = 0; e < 4; e++) {
        if (s.kind == BIAS_RELU || s.kind == RESIDUAL_RELU) o[e] = relu(o[e] + k[2][e] + cut[e]);
        if (s.kind == ADD_MASKED) o[e] += masked(cut[e], sign[e]);
        if (s.kind == MASK) {
            centred[e] -= k[0][e];
            o[e] = masked(o[e], centred[e] * k[1][e] + k[2][e]);
        }
    }
}

// Sum over the lanes that hold the same channels.
__device__ __forceinline__ float pixel_sum(float v) {
    for (int distance = NB / 4; distance < 32; distance *= 2) v += __shfl_xor_sync(ALL_LANES, v, distance);
    return v;
}

// Write one row of 16 pixels, of which cols exist, from `row` in shared memory; the first is pixel (n, i, j0), the others
// are `step` apart. kept: the warp's means [NB] and squared deviations [NB] of `before` pixels so far; or its two sums.
__device__ __forceinline__ void store_row(const Sink& s, const float* row, int n, int i, int j0, int step, int f0, int cols,
                                          float before, float* kept) {
    const int quads = NB / 4;                           // a lane has four channels, of every (32 / quads)th pixel
    int lane = threadIdx.x % 32, quad = lane % quads, c = f0 + 4 * quad;
    float k[3][4] = {}, a[4] = {}, b[4] = {};
    if (s.kind == MASK) load4(k[0], s.constants + c), load4(k[1], s.constants + F + c), load4(k[2], s.constants + 2 * F + c);
    if (s.kind == BIAS_RELU || s.kind == RESIDUAL_RELU) load4(k[2], s.constants + c);
#pragma unroll 2
    for (int q = lane / quads; q < cols; q += 32 / quads) {
        i64 at = (((i64)n * s.H + i) * s.W + j0 + step * q) * F + c;
        float o[4], centred[4] = {};
        load4(o, row + q * ROW + 4 * quad);
        finish(s, n, i, j0 + step * q, c, at, k, o, centred);
        *(float4*)(s.out + at) = make_float4(o[0], o[1], o[2], o[3]);
        for (int e = 0; e < 4; e++) a[e] += o[e], b[e] += o[e] * centred[e];
    }
    if (s.kind != MASK && s.kind != STORE_MOMENTS) return;
    float share = cols / (before + cols);
#pragma unroll
    for (int e = 0; e < 4; e++) {
        a[e] = pixel_sum(a[e]);
        if (s.kind == STORE_MOMENTS) {
            a[e] /= cols;
            for (int q = lane / quads; q < cols; q += 32 / quads) {
                float d = row[q * ROW + 4 * quad + e] - a[e];
                b[e] += d * d;
            }
        }
        b[e] = pixel_sum(b[e]);
        if (lane >= quads) continue;
        float *at = kept + 4 * quad + e, delta = a[e] - at[0];
        if (s.kind == MASK) at[0] += a[e], at[NB] += b[e];
        else {                                                                // Chan et al. 1983
            at[0] += delta * share;
            at[NB] += b[e] + delta * delta * before * share;
        }
    }
}

// Three channels are only ever the plain gradient of an image.
__device__ __forceinline__ void store_row3(const Sink& s, const float* row, int n, int i, int j0, int step, int cols) {
    for (int k = threadIdx.x % 32; k < 3 * cols; k += 32)
        s.out[(((i64)n * s.H + i) * s.W + j0 + step * (k / 3)) * 3 + k % 3] = row[k / 3 * ROW + k % 3];
}

// A fragment row of 16 pixels to this warp's rows of shared memory, ROW floats apart: 4 rows x 8 columns lie in 32 banks.
__device__ __forceinline__ void stage(const float sums[NF][4], float* row) {
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    __syncwarp();                                                             // the row before has been read
#pragma unroll
    for (int n = 0; n < NF; n++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            *(float2*)(row + (g + 8 * h) * ROW + 8 * n + 2 * t) = make_float2(sums[n][2 * h], sums[n][2 * h + 1]);
    __syncwarp();
}

// What the warps of a block have gathered, to parts: (blocks, 3, F) count, mean, squared deviations; or (blocks, 2, F) sums.
__device__ __forceinline__ void store_gathered(int kind, int f0, float (*kept)[2 * NB], const float* counts, float* parts) {
    for (int c = threadIdx.x; c < NB; c += THREADS) {
        float a = 0, b = 0, before = 0;
        for (int w = 0; w < WARPS; w++) {
            float mean = kept[w][c], more = kept[w][NB + c], count = counts[w];
            if (kind == MASK) a += mean, b += more;
            else if (count > 0) {
                float delta = mean - a, share = count / (before + count);
                a += delta * share;
                b += more + delta * delta * before * share;
                before += count;
            }
        }
        float* to = parts + (i64)blockIdx.x * (kind == MASK ? 2 : 3) * F + f0 + c;
        if (kind == STORE_MOMENTS) *to = before, to += F;
        to[0] = a;
        to[F] = b;
    }
}

//     out[n, i, j, f] = sink(sum over p, q, c of source(a)[n, i STRIDE + p - 1, j STRIDE + q - 1, c] W[p, q, c, f])
// and with UP, the sum over all i, j, p, q with (r, s) = (2 i + p - 1, 2 j + q - 1):
//     out[n, r, s, f] = sink(sum of source(a)[n, i, j, c] W[p, q, f, c])
// a and, where the source reads them, a_y and a_z: (N, H, W, C), N images; a_constants (4, C); filters: as emonet_pack wrote
// them, from word filters_at on; out (N, OH, OW, F) overwritten; first, second, cut_...: see the sinks; constants (3, F), or
// the floats of `filters` from shift_at on where the sink adds a bias; parts (blocks, 2 or 3, F) overwritten where the sink
// gathers, else not touched. Addresses of a, a_y, a_z, out, first, second and all constants are multiples of 16.
// Grid: (any number of blocks, F / NB), 128 threads, 4 (PH PW WORDS + 64 ROW) bytes of dynamic shared memory. Kernel of
// layers.Conv2d.forward, of its backward's dx (filters turned), and of Conv2d + BatchNorm + ReLU + shortcut in the order
// of kernels/cpu/block.h and infer.h.
extern "C" __global__ void __launch_bounds__(THREADS, NB > 32 ? 2 : PRECISION && !UP ? 4 : 3)
emonet_conv(int N, int H, int W, int OH, int OW, int source, const float* __restrict__ a, const float* __restrict__ a_y,
            const float* __restrict__ a_z, const float* __restrict__ a_constants, const u32* __restrict__ filters,
            i64 filters_at, i64 shift_at, int sink, float* __restrict__ out, const float* __restrict__ first,
            const float* __restrict__ second, const float* __restrict__ constants, int cut_H, int cut_W, int cut_C,
            int before, int cut_stride, float* __restrict__ parts) {
    extern __shared__ __align__(16) u32 patch[];
    __shared__ float kept[WARPS][2 * NB], counts[WARPS];
    int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, f0 = blockIdx.y * NB;
    const int GH = UP ? H : OH, GW = UP ? W : OW;       // what is cut into tiles
    int across = (GW + TW - 1) / TW, down = (GH + TH - 1) / TH;
    Source in = {a, a_y, a_z, a_constants};
    Sink to = {sink, out, first, second, sink == MASK ? constants : (const float*)filters + shift_at, OH, OW, cut_H, cut_W,
               cut_C, before, cut_stride};
    float* row = (float*)(patch + (PH * PW * WORDS + 3) / 4 * 4) + warp * (16 * ROW);
    filters += filters_at;
    for (int k = threadIdx.x; k < WARPS * 2 * NB; k += THREADS) kept[k / (2 * NB)][k % (2 * NB)] = 0;
    float seen = 0;
    for (i64 tile = blockIdx.x; tile < (i64)N * down * across; tile += gridDim.x) {
        int n = (int)(tile / (down * across)), i0 = (int)(tile / across % down) * TH, j0 = (int)(tile % across) * TW;
        int tap = 0;
#pragma unroll 1
        for (int turn = 0; turn < (UP ? 4 : 1); turn++) {                     // classes of pixels by parity
            const int taps_down = UP ? 1 + turn / 2 : 3, taps_across = UP ? 1 + turn % 2 : 3;
            float sums[MF][NF][4] = {};
#pragma unroll 1
            for (int c0 = 0; c0 < C; c0 += KC) {
                if (turn == 0 || KC < C) {
                    int ri = UP ? i0 : STRIDE * i0 - 1, rj = UP ? j0 : STRIDE * j0 - 1;
                    __syncthreads();
#if C == 3
                    load_patch3(a, n, ri, rj, H, W, (float*)patch);
#else
                    if (source == PLAIN) load_patch<PLAIN>(in, n, ri, rj, H, W, c0, patch);
                    if (source == NORM_RELU) load_patch<NORM_RELU>(in, n, ri, rj, H, W, c0, patch);
                    if (source == NORM_GRAD) load_patch<NORM_GRAD>(in, n, ri, rj, H, W, c0, patch);
                    if (source == NORM_GRAD_RELU) load_patch<NORM_GRAD_RELU>(in, n, ri, rj, H, W, c0, patch);
#endif
                    __syncthreads();
                }
#if C == 3
                multiply3(sums, (const float*)patch + (warp * MF * STRIDE * PW + g * STRIDE) * 3, filters, f0);
#else
                const u32* p = patch + (warp * MF * (UP ? 1 : STRIDE) * PW + g) * WORDS;
#pragma unroll 1
                for (int u = 0; u < taps_down; u++)
#pragma unroll 1
                    for (int v = 0; v < taps_across; v++) {
                        int k0 = (tap + u * taps_across + v) * C + c0;
                        multiply_tap(sums, p + (u * PW + column(v)) * WORDS, filters, k0, f0);
                    }
#endif
            }
            tap += taps_down * taps_across;
            int step = UP ? 2 : 1, oi = step * (i0 + warp * MF) + turn / 2, oj = step * j0 + turn % 2;
            int cols = min(TW, max(0, (OW - oj + step - 1) / step));
#pragma unroll
            for (int m = 0; m < MF; m++) {
                if (oi + step * m >= OH || cols == 0) continue;
                stage(sums[m], row);
#if F == 3
                store_row3(to, row, n, oi + step * m, oj, step, cols);
#else
                store_row(to, row, n, oi + step * m, oj, step, f0, cols, seen, kept[warp]);
                seen += cols;
#endif
            }
        }
    }
    if (sink != STORE_MOMENTS && sink != MASK) return;
    if (threadIdx.x % 32 == 0) counts[warp] = seen;
    __syncthreads();
    store_gathered(sink, f0, kept, counts, parts);
}

// The gradient of the filters of a 3x3 convolution, as an implicit matrix product: a row is a tap and an input channel, a
// column an output channel, and the sum runs over all pixels of all images.
// Launch code: emonet_scratch/kernels/cuda/convolution.py.
//
// A block takes tiles of TH x 16 output pixels, with both sources (common.cuh) applied on their way into shared memory: the
// input is normalised again from z rather than kept, and the gradient goes backward through ReLU and batch norm. A warp
// keeps 9 taps x 16 x 16 sums in registers over all its tiles (27 x 16 for images of 3 channels); where the block's CB x FB
// channels make fewer than 4 such units, warps share the rows of a tile. Nothing is written before the end: each block its
// own sums, which emonet_add_parts (norm.cu) adds in fixed order.
//
// Bytes a pixel at C = F = 16, stride 1, without the border: z of the layer in front 64, dy, y and z of this one 192;
// nothing is written. The definition passes 3 arrays for the ReLU, 14 for the norm, 9 times the input and 9 times dz: 2240.
//
// Defines: C: a multiple of 16, or 3; F: a multiple of 16; STRIDE 1 or 2; PRECISION 0 float32, 1 TF32, 2 BF16, which round
// on the way from shared memory to registers: a pair of BF16 is two neighbours along the sum, here two pixels.

#define THREADS 128
#define WARPS 4
#define TW 16
#define TH (STRIDE == 1 ? 8 : 4)
#define PH (STRIDE * (TH - 1) + 3)      // the patch: input of a tile
#define PW (STRIDE * (TW - 1) + 3)
#define CB (C == 3 ? 3 : C % 32 ? 16 : 32)              // channels of a block
#define FB (F % 32 ? 16 : 32)
#define CUNITS (C == 3 ? 1 : CB / 16)
#define UNITS (CUNITS * (FB / 16))      // 1, 2 or 4
#define SHARES (WARPS / UNITS)          // warps that do the same unit
#define WORDS (C == 3 ? 3 : CB + 8)     // of a pixel of the patch: 4 pixels x 8 channels of a fragment lie in 32 banks
#define DWORDS (FB + 8)                 // of a pixel of the gradient
#define MF (C == 3 ? 2 : 9)             // fragments of 16 rows: one a tap
#define KS (PRECISION == 2 ? 16 : 8)    // pixels of one mma

// Where column j of the patch lies: with stride 2 the even ones first, so that neighbours in a fragment are neighbours here.
__device__ __forceinline__ int column(int j) { return STRIDE == 2 && C != 3 ? (j & 1) * (TW + 1) + j / 2 : j; }

// Channels c0 .. c0 + N - 1 (of `channels`) of rows x cols pixels from (i0, j0) on; zeros outside of the H x W image.
template <int KIND, int N, bool SPLIT>
__device__ __forceinline__ void load_tile(const Source& s, int channels, int n, int i0, int j0, int rows, int cols, int H,
                                          int W, int c0, float* to) {
    const int quads = N / 4;
    int quad = threadIdx.x % quads, c = c0 + 4 * quad;
    float k[4][4];
    load_constants<KIND>(s, channels, c, k);
#pragma unroll 4
    for (int at = threadIdx.x / quads; at < rows * cols; at += THREADS / quads) {
        int r = at / cols, q = at % cols, i = i0 + r, j = j0 + q;
        float v[4] = {};
        if (i >= 0 && i < H && j >= 0 && j < W) load_source<KIND>(s, (((i64)n * H + i) * W + j) * channels + c, k, v);
        *(float4*)(to + (r * cols + (SPLIT ? column(q) : q)) * (N + 8) + 4 * quad) = make_float4(v[0], v[1], v[2], v[3]);
    }
}

__device__ __forceinline__ void load_input(const Source& s, int kind, int n, int i0, int j0, int H, int W, int c0,
                                           float* patch) {
#if C == 3
    for (int at = threadIdx.x; at < PH * PW * 3; at += THREADS) {
        int i = i0 + at / (PW * 3), e = at % (PW * 3), j = j0 + e / 3;
        patch[at] = i >= 0 && i < H && j >= 0 && j < W ? s.a[(((i64)n * H + i) * W + j) * 3 + e % 3] : 0;
    }
#else
    if (kind == PLAIN) load_tile<PLAIN, CB, true>(s, C, n, i0, j0, PH, PW, H, W, c0, patch);
    if (kind == NORM_RELU) load_tile<NORM_RELU, CB, true>(s, C, n, i0, j0, PH, PW, H, W, c0, patch);
#endif
}

__device__ __forceinline__ void load_gradient(const Source& s, int kind, int n, int i0, int j0, int H, int W, int f0,
                                              float* d) {
    if (kind == PLAIN) load_tile<PLAIN, FB, false>(s, F, n, i0, j0, TH, TW, H, W, f0, d);
    if (kind == NORM_GRAD) load_tile<NORM_GRAD, FB, false>(s, F, n, i0, j0, TH, TW, H, W, f0, d);
    if (kind == NORM_GRAD_RELU) load_tile<NORM_GRAD_RELU, FB, false>(s, F, n, i0, j0, TH, TW, H, W, f0, d);
}

// Where row `row` of fragment m starts in the patch, for the first pixel of a row of the tile; -1 where there is none.
__device__ __forceinline__ int row_of(int m, int row) {
    int k = 16 * m + row;
    if (C == 3) return k < 27 ? k / 9 * (PW * 3) + k % 9 : -1;
    return (m / 3 * PW + column(m % 3)) * WORDS + row;
}

// A word of a fragment: pixel k (and k + 1 for BF16) of one row, `step` floats apart.
__device__ __forceinline__ u32 word(const float* p, int k, int step) {
    if (PRECISION == 2) return pack_bf16(p[k * step], p[(k + 1) * step]);
    return __float_as_uint(to_tf32(p[k * step]));
}

// sums += one row of 16 pixels. p, d: that row of the patch and of the gradient, for the warp's 16 x 16 channels.
__device__ __forceinline__ void multiply_row(float sums[MF][2][4], const float* p, const float* d) {
    const int step = C == 3 ? STRIDE * 3 : WORDS;       // from pixel to pixel of the patch
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#if PRECISION == 0
#pragma unroll 1
    for (int k = 0; k < TW; k++) {
        float2 b[2] = {*(const float2*)(d + k * DWORDS + 2 * t), *(const float2*)(d + k * DWORDS + 8 + 2 * t)};
#pragma unroll
        for (int m = 0; m < MF; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int at = row_of(m, g + 8 * h);
                float a = at < 0 ? 0 : p[at + k * step];
                for (int n = 0; n < 2; n++) {
                    sums[m][n][2 * h] += a * b[n].x;
                    sums[m][n][2 * h + 1] += a * b[n].y;
                }
            }
    }
#else
#pragma unroll 1
    for (int k = 0; k < TW; k += KS) {
        int first = k + (PRECISION == 2 ? 2 * t : t);
        u32 b[2][2];
#pragma unroll
        for (int n = 0; n < 2; n++)
            for (int r = 0; r < 2; r++) b[n][r] = word(d + 8 * n + g, first + r * KS / 2, DWORDS);
#pragma unroll
        for (int m = 0; m < MF; m++) {
            u32 a[4];
#pragma unroll
            for (int r = 0; r < 4; r++) {
                int at = row_of(m, g + r % 2 * 8);
                a[r] = at < 0 ? 0 : word(p + at, first + r / 2 * KS / 2, step);
            }
            for (int n = 0; n < 2; n++) {
                if (PRECISION == 2) mma_bf16(sums[m][n], a, b[n]);
                else mma_tf32(sums[m][n], a, b[n]);
            }
        }
    }
#endif
}

// parts[block, p, q, c, f] = sum over the block's pixels (n, i, j) of in(x)[n, i STRIDE + p - 1, j STRIDE + q - 1, c] *
//     source(d)[n, i, j, f]
// x (N, H, W, C) with x_constants (4, C) where in is NORM_RELU; d and, where the source reads them, y and z: (N, OH, OW, F);
// constants (4, F); parts (blocks, 3, 3, C, F) overwritten. 16 | address of x, d, y, z.
// Grid: (any number of blocks, C / CB * F / FB), 128 threads, 4 (PH PW WORDS + TH 16 DWORDS) bytes. Kernel of the dW of
// layers.Conv2d.backward, behind the backward of BatchNorm and ReLU as kernels/cpu/block.h arranges them.
extern "C" __global__ void __launch_bounds__(THREADS, 3)
emonet_conv_filters(int N, int H, int W, int OH, int OW, int in, const float* __restrict__ x,
                    const float* __restrict__ x_constants, int source, const float* __restrict__ d,
                    const float* __restrict__ y, const float* __restrict__ z, const float* __restrict__ constants,
                    float* __restrict__ parts) {
    extern __shared__ __align__(16) float patch[];
    float* gradient = patch + (PH * PW * WORDS + 3) / 4 * 4;
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int unit = threadIdx.x / 32 % UNITS, share = threadIdx.x / 32 / UNITS;
    int cu = unit % CUNITS * 16, fu = unit / CUNITS * 16;
    int c0 = blockIdx.y % (C / CB) * CB, f0 = blockIdx.y / (C / CB) * FB;
    int across = (OW + TW - 1) / TW, down = (OH + TH - 1) / TH;
    Source input = {x, x, x, x_constants}, dz = {d, y, z, constants};
    float sums[MF][2][4] = {};
    for (i64 tile = blockIdx.x; tile < (i64)N * down * across; tile += gridDim.x) {
        int n = (int)(tile / (down * across)), i0 = (int)(tile / across % down) * TH, j0 = (int)(tile % across) * TW;
        __syncthreads();
        load_input(input, in, n, STRIDE * i0 - 1, STRIDE * j0 - 1, H, W, c0, patch);
        load_gradient(dz, source, n, i0, j0, OH, OW, f0, gradient);
        __syncthreads();
#pragma unroll 1
        for (int r = share; r < TH; r += SHARES)
            multiply_row(sums, patch + r * STRIDE * PW * WORDS + cu, gradient + r * TW * DWORDS + fu);
    }
    for (int other = 1; other < SHARES; other++) {                            // one after another, through shared memory
        float* mine = patch + unit * (MF * 8 * 32) + lane;
        __syncthreads();
#pragma unroll
        for (int k = 0; k < MF * 8; k++)
            if (share == other) mine[32 * k] = sums[k / 8][k / 4 % 2][k % 4];
        __syncthreads();
#pragma unroll
        for (int k = 0; k < MF * 8; k++)
            if (share == 0) sums[k / 8][k / 4 % 2][k % 4] += mine[32 * k];
    }
    if (share != 0) return;
#pragma unroll
    for (int m = 0; m < MF; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int row = C == 3 ? 16 * m + g + 8 * h : m * C + c0 + cu + g + 8 * h;
            for (int n = 0; n < 2 && row < 9 * C; n++)
                *(float2*)(parts + ((i64)blockIdx.x * 9 * C + row) * F + f0 + fu + 8 * n + 2 * t) =
                    make_float2(sums[m][n][2 * h], sums[m][n][2 * h + 1]);
        }
}

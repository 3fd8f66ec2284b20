// What stands between the convolutions: their filters in the order in which conv.cu reads them, the constants of batch norm,
// the passes over an array that no convolution can take along, and sums of the parts that blocks have left. Sizes are
// arguments here: all of it is small, or waits for memory. Every block has 256 threads.
// Launch code: emonet_scratch/kernels/cuda/convolution.py.

#define THREADS 256
#define COLUMNS 4                       // channels of a block that adds up parts ...
#define ROWS (THREADS / COLUMNS)        // ... and threads that share one channel

// ---- filters ----

// A row of the table: addresses of W (3, 3, C, F) and, where a batch norm is folded in, of its four arrays (else 0); where
// the filters and the shift go, in words of the room; C, F, how, and the bits of eps as a float.
struct Filters {
    const float *W, *gamma, *beta, *mean, *var;
    i64 at, shift_at;
    int C, F, how;                      // how: AS_THEY_ARE, TURNED or BY_PARITY
    float eps;
};
enum { AS_THEY_ARE, TURNED, BY_PARITY };

__device__ __forceinline__ Filters filters_of(const u64* __restrict__ table, int row) {
    const u64* r = table + 11 * row;
    return {(const float*)r[0], (const float*)r[1], (const float*)r[2], (const float*)r[3], (const float*)r[4], (i64)r[5],
            (i64)r[6], (int)r[7], (int)r[8], (int)r[9], __uint_as_float((u32)r[10])};
}

// Number (k, c) of the product's right side: k = tap * channels + channel of what is multiplied, c a channel of the result.
__device__ __forceinline__ float filter(const Filters& w, int k, int c) {
    const u64 by_parity = 0x026817354;                  // from the lowest digit on; the first tap is that of even pixels
    int rows = w.how == AS_THEY_ARE ? w.C : w.F, columns = w.how == AS_THEY_ARE ? w.F : w.C;
    int tap = k / rows, channel = k % rows;
    if (tap > 8 || c >= columns) return 0;
    if (w.how == AS_THEY_ARE) {
        float scale = w.gamma ? w.gamma[c] / sqrtf(w.var[c] + w.eps) : 1.0f;
        return w.W[((i64)tap * w.C + channel) * w.F + c] * scale;
    }
    tap = w.how == TURNED ? 8 - tap : (int)(by_parity >> 4 * tap & 15);
    return w.W[((i64)tap * w.C + c) * w.F + channel];
}

// All filters of the table into the room (words, overwritten), batch norm folded in where asked for:
//     norm(conv(x, W)) = conv(x, W gamma / std) + (beta - mean gamma / std)
// precision 0: the product's right side, (9 C, F) floats; 1 and 2: its fragments for mma, [step][columns / 8][lane][2]
// words, as common.cuh says for b. Rows are filled up with zeros to a multiple of 32, columns to one of 8.
// Grid: (any, rows of the table). Kernel of the fold in kernels/cpu/infer.h and of the turned filters in kernels/cpu/conv.h.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
emonet_pack(const u64* __restrict__ table, int precision, u32* __restrict__ room) {
    Filters w = filters_of(table, blockIdx.y);
    int rows = 9 * (w.how == AS_THEY_ARE ? w.C : w.F), across = ((w.how == AS_THEY_ARE ? w.F : w.C) + 7) / 8;
    int step = precision == 2 ? 16 : 8, words = (rows + 31) / 32 * 32 * across * (precision == 2 ? 4 : 8);
    int first = blockIdx.x * THREADS + threadIdx.x, stride = gridDim.x * THREADS;
    for (int at = first; at < words; at += stride) {
        int lane = at / 2 % 32, tile = at / 64;
        int k = tile / across * step + at % 2 * (step / 2), c = tile % across * 8 + lane / 4;
        float v = precision == 0 ? filter(w, at / (8 * across), at % (8 * across)) : 0;
        if (precision == 1) v = to_tf32(filter(w, k + lane % 4, c));
        u32 bits = __float_as_uint(v);
        if (precision == 2) bits = pack_bf16(filter(w, k + lane % 4 * 2, c), filter(w, k + lane % 4 * 2 + 1, c));
        room[w.at + at] = bits;
    }
    for (int c = first; w.gamma && c < w.F; c += stride)
        room[w.shift_at + c] = __float_as_uint(w.beta[c] - w.mean[c] * (w.gamma[c] / sqrtf(w.var[c] + w.eps)));
}

// ---- batch norm ----

// The sum of v over the threads that share a channel, in a fixed order, in each of them.
__device__ __forceinline__ double column_sum(double v, double* shared) {
    shared[threadIdx.x] = v;
    __syncthreads();
    for (int half = ROWS / 2; half; half /= 2) {
        if (threadIdx.x / COLUMNS < half) shared[threadIdx.x] += shared[threadIdx.x + half * COLUMNS];
        __syncthreads();
    }
    v = shared[threadIdx.x % COLUMNS];
    __syncthreads();
    return v;
}

// Constants of a batch norm, (4, F): mean, scale = gamma / std, shift = beta, 1 / std; overwritten.
// Training: from parts (count, 3, F): numbers of pixels, their means and squared deviations; the running statistics (F) move
// by `momentum`. Evaluation: from the running statistics, parts are not read. gamma, beta (F).
// Grid: ceil(F / 4). Kernel of the statistics in layers.BatchNorm.forward; merging as in Chan et al. 1983.
extern "C" __global__ void __launch_bounds__(THREADS)
emonet_norm_forward(int count, int F, int training, float eps, float momentum, const float* __restrict__ parts,
                    const float* __restrict__ gamma, const float* __restrict__ beta, float* __restrict__ running_mean,
                    float* __restrict__ running_var, float* __restrict__ constants) {
    __shared__ double shared[THREADS];
    int f = blockIdx.x * COLUMNS + threadIdx.x % COLUMNS, row = threadIdx.x / COLUMNS;
    bool writes = f < F && row == 0;
    double mean = 0, var = 1;
    if (training) {
        double pixels = 0, total = 0, squares = 0;
        for (int k = row; k < count && f < F; k += ROWS) {
            const float* p = parts + (i64)k * 3 * F + f;
            pixels += p[0];
            total += (double)p[0] * p[F];
        }
        pixels = column_sum(pixels, shared);
        mean = column_sum(total, shared) / pixels;
        for (int k = row; k < count && f < F; k += ROWS) {
            const float* p = parts + (i64)k * 3 * F + f;
            double d = p[F] - mean;
            squares += p[2 * F] + p[0] * d * d;
        }
        squares = column_sum(squares, shared);
        var = squares / pixels;
        if (writes) {
            running_mean[f] += momentum * (float)(mean - running_mean[f]);
            running_var[f] += momentum * (float)(squares / (pixels > 1 ? pixels - 1 : 1) - running_var[f]);
        }
    } else if (writes) mean = running_mean[f], var = running_var[f];
    if (!writes) return;
    double inv_std = 1 / sqrt(var + eps);
    constants[f] = (float)mean;
    constants[F + f] = (float)(gamma[f] * inv_std);
    constants[2 * F + f] = beta[f];
    constants[3 * F + f] = (float)inv_std;
}

// From the sums over all pixels of d and d (z - mean) the gradients of a batch norm, and the constants with which the source
// NORM_GRAD makes dz: (4, F) mean, scale, shift, slope, overwritten:
//     dz = gamma / std (d - mean(d) - x_hat mean(d x_hat)),    in evaluation gamma / std d
// parts (count, 2, F); pixels: their number; gamma (F); forward (4, F): what emonet_norm_forward gave; dgamma, dbeta (F) are
// added to. Grid: ceil(F / 4). Kernel of layers.BatchNorm.backward.
extern "C" __global__ void __launch_bounds__(THREADS)
emonet_norm_backward(int count, int F, int training, double pixels, const float* __restrict__ parts,
                     const float* __restrict__ gamma, const float* __restrict__ forward, float* __restrict__ dgamma,
                     float* __restrict__ dbeta, float* __restrict__ constants) {
    __shared__ double shared[THREADS];
    int f = blockIdx.x * COLUMNS + threadIdx.x % COLUMNS, row = threadIdx.x / COLUMNS;
    double sum = 0, product = 0;
    for (int k = row; k < count && f < F; k += ROWS) {
        sum += parts[(i64)k * 2 * F + f];
        product += parts[(i64)k * 2 * F + F + f];
    }
    sum = column_sum(sum, shared);
    product = column_sum(product, shared);
    if (f >= F || row != 0) return;
    double inv_std = forward[3 * F + f], scale = gamma[f] * inv_std;
    dgamma[f] += (float)(product * inv_std);
    dbeta[f] += (float)sum;
    constants[f] = forward[f];
    constants[F + f] = (float)scale;
    constants[2 * F + f] = training ? (float)(-scale * sum / pixels) : 0.0f;
    constants[3 * F + f] = training ? (float)(-scale * inv_std * inv_std * product / pixels) : 0.0f;
}

// ---- two passes over whole arrays ----

// y = max(norm(z) + shortcut(x), 0), four channels a thread; the shortcut as in layers.PadShortcut, none if C is 0.
// z, y (N, H, W, F), F a multiple of 4; constants (4, F); x (N, XH, XW, C); y overwritten. 12 bytes a number; the definition
// writes 5 arrays (x_hat, times gamma, plus beta, plus shortcut, max) and reads 6, 44 bytes. Grid: ceil(N H W F / 1024).
// Kernel of the end of layers.ResidualBlock.forward.
extern "C" __global__ void __launch_bounds__(THREADS)
emonet_finish(i64 n, int H, int W, int F, const float* __restrict__ z, const float* __restrict__ constants,
              const float* __restrict__ x, int XH, int XW, int C, int before, int stride, float* __restrict__ y) {
    i64 at = 4 * ((i64)blockIdx.x * THREADS + threadIdx.x);
    if (at >= n) return;
    int c = (int)(at % F);
    i64 pixel = at / F, image = pixel / W / H;
    int j = (int)(pixel % W), i = (int)(pixel / W % H);
    const float* from = x + ((image * XH + (i64)i * stride) * XW + (i64)j * stride) * C;
    Source s = {z, z, z, constants};
    float v[4], k[4][4];
    load_constants<NORM_RELU>(s, F, c, k);
    load4(v, z + at);
    for (int e = 0; e < 4; e++) {
        int other = c + e - before;
        v[e] = (v[e] - k[0][e]) * k[1][e] + k[2][e];
        v[e] = relu(v[e] + (other >= 0 && other < C ? from[other] : 0));
    }
    *(float4*)(y + at) = make_float4(v[0], v[1], v[2], v[3]);
}

// Sums over pixels of d = dy (y > 0) and of d (z - mean), a part a block: parts (blocks, 2, F) overwritten.
// dy, y, z (pixels, F), F a multiple of 4, at most 1024; mean (F). 12 bytes a number; the definition passes 8 arrays, 32.
// Grid: any; 8 KiB of dynamic shared memory. Kernel of the sums in layers.BatchNorm.backward behind a ReLU.
extern "C" __global__ void __launch_bounds__(THREADS)
emonet_reduce(i64 pixels, int F, const float* __restrict__ dy, const float* __restrict__ y, const float* __restrict__ z,
              const float* __restrict__ mean, float* __restrict__ parts) {
    extern __shared__ __align__(16) float shared[];
    int quads = F / 4, sharing = THREADS / quads, row = threadIdx.x / quads, c = threadIdx.x % quads * 4;
    float sum[4] = {}, product[4] = {}, m[4];
    load4(m, mean + c);
#pragma unroll 2
    for (i64 p = (i64)blockIdx.x * sharing + row; p < pixels && row < sharing; p += (i64)gridDim.x * sharing) {
        float d[4], g[4], v[4];
        load4(d, dy + p * F + c);
        load4(g, y + p * F + c);
        load4(v, z + p * F + c);
        for (int e = 0; e < 4; e++) {
            d[e] = masked(d[e], g[e]);
            sum[e] += d[e];
            product[e] += d[e] * (v[e] - m[e]);
        }
    }
    for (int e = 0; e < 4 && row < sharing; e++) {
        shared[row * F + c + e] = sum[e];
        shared[(sharing + row) * F + c + e] = product[e];
    }
    __syncthreads();
    for (int k = threadIdx.x; k < 2 * F; k += THREADS) {
        float total = 0;
        for (int r = 0; r < sharing; r++) total += shared[(k / F * sharing + r) * F + k % F];
        parts[(i64)blockIdx.x * 2 * F + k] = total;
    }
}

// out (n) += the sum of parts (count, n) over its first axis, in a fixed order. Grid: ceil(n / 32).
extern "C" __global__ void __launch_bounds__(THREADS)
emonet_add_parts(int count, int n, const float* __restrict__ parts, float* __restrict__ out) {
    __shared__ float shared[THREADS];
    int i = blockIdx.x * 32 + threadIdx.x % 32;
    float sum = 0;
#pragma unroll 4
    for (int k = threadIdx.x / 32; k < count && i < n; k += THREADS / 32) sum += parts[(i64)k * n + i];
    shared[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x >= 32 || i >= n) return;
    for (int k = 1; k < THREADS / 32; k++) sum += shared[32 * k + threadIdx.x];
    out[i] += sum;
}

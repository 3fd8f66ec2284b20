// What is neither convolution nor recurrence. Arithmetic costs nothing here, memory does: each kernel reads its operands
// once and writes its results once. Every block has 256 threads. Launch code: emonet_scratch/kernels/cuda/pointwise.py.

#define THREADS 256
#define WARPS (THREADS / 32)
#define EACH 4                          // numbers a thread, THREADS apart, so that neighbours read neighbours

// Pixels to floats: y_i = scale_c x_i + shift_c with c = i mod C.
// x (n) bytes; scale, shift (C); y (n) overwritten. Grid: ceil(n / 1024). Kernel of layers.Normalize.forward.
extern "C" __global__ void __launch_bounds__(THREADS)
emonet_normalize(i64 n, int C, const u8* __restrict__ x, const float* __restrict__ scale, const float* __restrict__ shift,
                 float* __restrict__ y) {
    i64 first = (i64)blockIdx.x * (THREADS * EACH);
    int c0 = (int)(first % C);
    for (int k = 0; k < EACH; k++) {
        int t = threadIdx.x + k * THREADS, c = (c0 + t) % C;
        if (first + t < n) y[first + t] = x[first + t] * scale[c] + shift[c];
    }
}

// ---- dropout ----

// Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): c becomes the four random words
// that belong to the counter c and the key (k0, k1).
__device__ __forceinline__ void philox(u64 c[4], u64 k0, u64 k1) {
    const u64 M0 = 0xD2E7470EE14C6C93ull, M1 = 0xCA5A826395121157ull;
    for (int round = 0; round < 10; round++) {
        u64 low0 = M0 * c[0], high0 = __umul64hi(M0, c[0]), low1 = M1 * c[2], high1 = __umul64hi(M1, c[2]);
        c[0] = high1 ^ c[1] ^ k0;
        c[1] = low1;
        c[2] = high0 ^ c[3] ^ k1;
        c[3] = low0;
        k0 += 0x9E3779B97F4A7C15ull;                     // the golden ratio
        k1 += 0xBB67AE8584CAA73Bull;                     // sqrt(3) - 1
    }
}

// y_i = x_i scale m_i, where m_i = 0 if u_i < rate, else 1, and u_i are the numbers in [0, 1) that NumPy draws from
// Philox(key): block j of four words (counter j + 1) serves i = 8 j .. 8 j + 7, lower halves first, 24 upper bits of each.
// x (n); key (2); y (n) overwritten; next (2) overwritten with the key of the next call if advance is 1, not touched if 0.
// Grid: ceil(n / 2048). Kernel of layers.Dropout: forward with advance 1; backward with x = dy, the same key, advance 0.
extern "C" __global__ void __launch_bounds__(THREADS)
emonet_dropout(i64 n, float rate, float scale, int advance, const float* __restrict__ x, const u64* __restrict__ key,
               u64* __restrict__ next, float* __restrict__ y) {
    i64 block = (i64)blockIdx.x * THREADS + threadIdx.x, first = 8 * block;
    if (advance && block == 0) {
        next[0] = key[0];
        next[1] = key[1] + 1;
    }
    if (first >= n) return;
    u64 words[4] = {(u64)block + 1, 0, 0, 0};
    philox(words, key[0], key[1]);
#pragma unroll
    for (int k = 0; k < 8; k++) {
        u32 bits = (u32)(words[k / 2] >> (k % 2 * 32));
        float u = (float)(bits >> 8) * 0x1p-24f;
        if (first + k < n) y[first + k] = x[first + k] * (u < rate ? 0.0f : scale);
    }
}

// ---- loss ----

// Softmax cross-entropy of N rows of K logits, with targets t_nk = w_k q_nk:
//     loss = - sum_n sum_k t_nk log p_nk / total,   dlogits = (p sum_k t_nk - t) / total
// logits (N, K); targets q (N, K), smoothed; weights (K), or anything if weighted is 0 (then w = 1); dlogits (N, K) overwritten;
// losses (blocks) overwritten: the part of the loss that this block's rows make. Grid: any number of blocks; a warp does a
// row. Kernel of losses.softmax_cross_entropy.
extern "C" __global__ void __launch_bounds__(THREADS)
emonet_softmax_cross_entropy(int N, int K, double total, int weighted, const float* __restrict__ logits,
                             const float* __restrict__ targets, const float* __restrict__ weights,
                             float* __restrict__ dlogits, double* __restrict__ losses) {
    __shared__ double shared[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    double loss = 0;
    float factor = (float)(1 / total);
    for (int n = blockIdx.x * WARPS + warp; n < N; n += gridDim.x * WARPS) {
        const float *z = logits + (i64)n * K, *q = targets + (i64)n * K;
        float top = z[0], sum = 0, t_sum = 0, cross = 0;
        for (int k = lane; k < K; k += 32) top = fmaxf(top, z[k]);
        for (int distance = 16; distance; distance >>= 1) top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, distance));
        for (int k = lane; k < K; k += 32) sum += expf(z[k] - top);
        sum = warp_sum(sum);
        float log_sum = logf(sum);
        for (int k = lane; k < K; k += 32) {
            float t = q[k] * (weighted ? weights[k] : 1.0f);
            t_sum += t;
            if (q[k] > 0) cross += t * (z[k] - top - log_sum);         // 0 log 0 = 0: a masked class has z = -inf
        }
        t_sum = warp_sum(t_sum);
        loss += warp_sum(cross);
        for (int k = lane; k < K; k += 32) {
            float t = q[k] * (weighted ? weights[k] : 1.0f);
            dlogits[(i64)n * K + k] = (expf(z[k] - top - log_sum) * t_sum - t) * factor;
        }
    }
    loss = block_sum(lane == 0 ? loss : 0, shared);
    if (threadIdx.x == 0) losses[blockIdx.x] = -loss / total;
}

// ---- optimizers: one launch for all parameters ----
//
// A table says what each block works on: row b = (value, grad, m, v, first, count), the addresses of a parameter's four
// arrays (0 where there is none) and the part of them, at most 4096 numbers. Grid: the rows of the table.

struct Part {
    float *value, *grad, *m, *v;
    i64 first;
    int count;
};

__device__ __forceinline__ Part part_of(const u64* __restrict__ table) {
    const u64* row = table + 6 * (i64)blockIdx.x;
    return {(float*)row[0], (float*)row[1], (float*)row[2], (float*)row[3], (i64)row[4], (int)row[5]};
}

// Stochastic gradient descent (Polyak 1964; Nesterov's as in Sutskever et al. 2013):
//     d = grad + decay value;   m <- momentum m + d;   value <- value - lr m   (nesterov: lr (d + momentum m); no m: lr d)
// value and m are changed in place, grad is read. Kernel of optim.SGD.step.
extern "C" __global__ void __launch_bounds__(THREADS)
emonet_sgd(const u64* __restrict__ table, float lr, float decay, float momentum, int nesterov) {
    Part p = part_of(table);
    for (int k = threadIdx.x; k < p.count; k += THREADS) {
        i64 i = p.first + k;
        float d = p.grad[i] + decay * p.value[i];
        if (p.m) {
            float m = p.m[i] = momentum * p.m[i] + d;
            d = nesterov ? d + momentum * m : m;
        }
        p.value[i] -= lr * d;
    }
}

// Adam (Kingma & Ba 2015) and, with decay 0 and shrink = 1 - lr * weight_decay, AdamW (Loshchilov & Hutter 2019):
//     d = grad + decay value;   m <- beta1 m + rest1 d;   v <- beta2 v + rest2 d^2
//     value <- shrink value - lr m / (sqrt(v unbias2) + eps)
// where rest = 1 - beta, unbias2 = 1 / (1 - beta2^t), and lr holds 1 / (1 - beta1^t) as well. value, m and v are changed in
// place, grad is read. Kernel of optim.Adam.step.
extern "C" __global__ void __launch_bounds__(THREADS)
emonet_adam(const u64* __restrict__ table, float lr, float decay, float shrink, float beta1, float rest1, float beta2,
            float rest2, float unbias2, float eps) {
    Part p = part_of(table);
    for (int k = threadIdx.x; k < p.count; k += THREADS) {
        i64 i = p.first + k;
        float value = p.value[i], d = p.grad[i] + decay * value;
        float m = p.m[i] = beta1 * p.m[i] + rest1 * d;
        float v = p.v[i] = beta2 * p.v[i] + rest2 * (d * d);
        p.value[i] = shrink * value - lr * m / (sqrtf(v * unbias2) + eps);
    }
}

// The joint norm of all gradients, in double and in a fixed order: first a sum of squares a block into sums (rows) ...
extern "C" __global__ void __launch_bounds__(THREADS)
emonet_squares(const u64* __restrict__ table, double* __restrict__ sums) {
    __shared__ double shared[32];
    Part p = part_of(table);
    double sum = 0;
    for (int k = threadIdx.x; k < p.count; k += THREADS) sum += (double)p.grad[p.first + k] * p.grad[p.first + k];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// ... then the root of their sum into norm (1), by a grid of one block. Both are the kernel of optim.clip_gradient_norm.
extern "C" __global__ void __launch_bounds__(THREADS)
emonet_norm(int rows, const double* __restrict__ sums, double* __restrict__ norm) {
    __shared__ double shared[32];
    double sum = 0;
    for (int k = threadIdx.x; k < rows; k += THREADS) sum += sums[k];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) norm[0] = sqrt(sum);
}

// grad <- grad limit / norm where the norm is finite and above the limit, in place; grid: the rows of the table.
extern "C" __global__ void __launch_bounds__(THREADS)
emonet_clip(const u64* __restrict__ table, const double* __restrict__ norm, double limit) {
    if (!(norm[0] > limit) || norm[0] > 1.7976931348623157e308) return;
    Part p = part_of(table);
    float factor = (float)(limit / norm[0]);
    for (int k = threadIdx.x; k < p.count; k += THREADS) p.grad[p.first + k] *= factor;
}

// y = x W + b for matrices of any size, row-major. cuBLAS is not to be had while a CUDA graph is captured; these kernels are.
// Launch code: emonet_scratch/gpu/gemm.py.
//
// A block makes 32 x 64 numbers of y. It brings 32 columns of x and 32 rows of W at a time into shared memory, with zeros
// behind the edges, and each of its 4 warps multiplies all 32 rows by 16 columns. The matrices of one clip are low (1 to 50
// rows), so y alone makes few blocks: the sum over k is cut into shares, each of which is a matrix of its own until
// emonet_gemm_sum adds them in fixed order.
//
// Rows of x in shared memory are 36 floats apart, so the 8 rows x 4 columns of a fragment lie in 32 banks; rows of W 72, so
// 4 rows x 8 columns do.
//
// Defines: PRECISION 0 float32, 1 TF32, 2 BF16. Never run on a GPU so far.

#define THREADS 128
#define MB 32                           // rows of a block
#define NB 64                           // columns of a block
#define KB 32                           // of the sum, in shared memory at once
#define XS (KB + 4)
#define WS (NB + 8)
#define KS (PRECISION == 2 ? 16 : 8)    // of the sum, in one mma

// sums += the KB columns of x by the KB rows of W in shared memory; w: this warp's columns.
__device__ __forceinline__ void multiply(float sums[2][2][4], const float* x, const float* w) {
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#if PRECISION == 0
#pragma unroll 4
    for (int k = 0; k < KB; k++)
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    sums[m][n][e] += x[(16 * m + g + e / 2 * 8) * XS + k] * w[k * WS + 8 * n + 2 * t + e % 2];
#else
#pragma unroll
    for (int k0 = 0; k0 < KB; k0 += KS) {
        u32 a[2][4], b[2][2];
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int r = 0; r < 4; r++) {
                const float* p = x + (16 * m + g + r % 2 * 8) * XS + k0 + r / 2 * (KS / 2);
                a[m][r] = PRECISION == 2 ? pack_bf16(p[2 * t], p[2 * t + 1]) : __float_as_uint(to_tf32(p[t]));
            }
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const float* p = w + (k0 + r * (KS / 2)) * WS + 8 * n + g;
                b[n][r] = PRECISION == 2 ? pack_bf16(p[2 * t * WS], p[(2 * t + 1) * WS]) : __float_as_uint(to_tf32(p[t * WS]));
            }
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int n = 0; n < 2; n++) {
                if (PRECISION == 2) mma_bf16(sums[m][n], a[m], b[n]);
                else mma_tf32(sums[m][n], a[m], b[n]);
            }
    }
#endif
}

// y[z, i, j] = sum over k of x[i, k] W[k, j], for k in z share ... (z + 1) share - 1; + b[j] where with_bias is not 0.
// x (M, K), W (K, N), b (N) read, y (shares, M, N) overwritten; 32 | share.
// Grid: (ceil(N / 64), ceil(M / 32), shares), 128 threads. Twin of layers.Dense.forward, and of the products with W_ih in
// layers.LSTM.forward.
extern "C" __global__ void __launch_bounds__(THREADS)
emonet_gemm(int M, int N, int K, int share, const float* __restrict__ x, const float* __restrict__ W,
            const float* __restrict__ b, int with_bias, float* __restrict__ y) {
    __shared__ float xs[MB * XS], ws[KB * WS];
    int j0 = blockIdx.x * NB, i0 = blockIdx.y * MB, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    i64 first = (i64)blockIdx.z * share, last = first + share < K ? first + share : K;
    float sums[2][2][4] = {};
    for (i64 k0 = first; k0 < last; k0 += KB) {
        __syncthreads();                                                      // the block before has been used
        for (int e = threadIdx.x; e < MB * KB; e += THREADS) {
            int i = e / KB, k = e % KB;
            xs[i * XS + k] = i0 + i < M && k0 + k < last ? x[(i64)(i0 + i) * K + k0 + k] : 0;
        }
        for (int e = threadIdx.x; e < KB * NB; e += THREADS) {
            int k = e / NB, j = e % NB;
            ws[k * WS + j] = k0 + k < last && j0 + j < N ? W[(k0 + k) * N + j0 + j] : 0;
        }
        __syncthreads();
        multiply(sums, xs, ws + 16 * warp);
    }
    y += (i64)blockIdx.z * M * N;
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int i = i0 + 16 * m + lane / 4 + e / 2 * 8, j = j0 + 16 * warp + 8 * n + lane % 4 * 2 + e % 2;
                if (i < M && j < N) y[(i64)i * N + j] = sums[m][n][e] + (with_bias ? b[j] : 0);
            }
}

// y[i] = sum over z of parts[z, i], + b[i % N]; parts (shares, n) as emonet_gemm left them, b (N), y (n) overwritten.
// Grid: ceil(n / 128) blocks of 128 threads.
extern "C" __global__ void __launch_bounds__(THREADS)
emonet_gemm_sum(i64 n, int N, int shares, const float* __restrict__ parts, const float* __restrict__ b,
                float* __restrict__ y) {
    i64 i = (i64)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    float sum = 0;
    for (int z = 0; z < shares; z++) sum += parts[z * n + i];
    y[i] = sum + b[i % N];
}

// Softmax cross-entropy with its gradient, version 2 of 3: a block a row. Arguments as in softmax_cuda_1.cu.
// Grid: N blocks of 256 threads.
//
// What is new: 256 threads share a row, and what each has found is brought together in shared memory, by a
// tree of 8 levels.
// Why it is faster: neighbouring threads read neighbouring numbers, so every byte fetched is used; and there
// are 256 times as many threads in flight, which is what hides the wait for memory.
// What limits it: barriers. Four reductions of ten each make the whole block wait forty times; and with the
// seven classes of this package 249 of the 256 threads have nothing to add.

#define THREADS 256

// The sum, or the largest, of what all threads bring, for every thread; shared (THREADS) is free again then.
__device__ float reduce(float v, bool largest, float* shared) {
    int t = threadIdx.x;
    shared[t] = v;
    for (int half = THREADS / 2; half; half /= 2) {
        __syncthreads();
        if (t < half) shared[t] = largest ? fmaxf(shared[t], shared[t + half]) : shared[t] + shared[t + half];
    }
    __syncthreads();
    v = shared[0];
    __syncthreads();                              // before the next reduction writes
    return v;
}

extern "C" __global__ void __launch_bounds__(THREADS)
emonet_softmax_cross_entropy(int N, int K, double total, int weighted, const float* __restrict__ logits,
                             const float* __restrict__ targets, const float* __restrict__ weights,
                             float* __restrict__ dlogits, double* __restrict__ losses) {
    __shared__ float shared[THREADS];
    int n = blockIdx.x;
    const float *z = logits + (long long)n * K, *q = targets + (long long)n * K;
    float top = z[0], sum = 0, t_sum = 0, cross = 0;
    for (int k = threadIdx.x; k < K; k += THREADS) top = fmaxf(top, z[k]);
    top = reduce(top, true, shared);
    for (int k = threadIdx.x; k < K; k += THREADS) sum += expf(z[k] - top);
    sum = reduce(sum, false, shared);
    for (int k = threadIdx.x; k < K; k += THREADS) {
        float t = q[k] * (weighted ? weights[k] : 1.0f);
        t_sum += t;
        if (q[k] > 0) cross += t * (z[k] - top - logf(sum));
    }
    t_sum = reduce(t_sum, false, shared);
    cross = reduce(cross, false, shared);
    for (int k = threadIdx.x; k < K; k += THREADS) {
        float t = q[k] * (weighted ? weights[k] : 1.0f);
        dlogits[(long long)n * K + k] = (expf(z[k] - top) / sum * t_sum - t) / (float)total;
    }
    if (threadIdx.x == 0) losses[n] = -cross / total;
}

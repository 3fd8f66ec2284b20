// What is neither convolution nor recurrence: each kernel reads its operands once and writes its results once.
// Never run on a GPU so far. Launch code: emonet_scratch/gpu/pointwise.py; a block has 256 threads.

#define THREADS 256
#define EACH 4                          // numbers a thread, THREADS apart, so that neighbours read neighbours

// Pixels to floats: y_i = scale_c x_i + shift_c, c = i mod C.
// x (n) bytes, scale and shift (C), y (n) overwritten. Grid: ceil(n / 1024) blocks. Twin of layers.Normalize.forward.
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

// What the kernels share. launch.py puts this text in front of every .cu file, so nothing is included from anywhere.
//
// On a GPU the functions below are PTX; where EMONET_SHIM is defined (tests/cuda/shim.h), the same names are emulated on a
// CPU and nothing here differs but mma and the conversions. Blocks are expected to be multiples of 32 threads.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define ALL_LANES 0xffffffffu

// The number of this thread in its block, x fastest, as warps are cut.
__device__ __forceinline__ int thread_number() {
    return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}

__device__ __forceinline__ int threads_in_block() { return blockDim.x * blockDim.y * blockDim.z; }

// Sum over the 32 lanes, the same bits in every lane (each lane adds the same pairs). T is float or double.
template <typename T>
__device__ __forceinline__ T warp_sum(T v) {
    for (int distance = 16; distance; distance >>= 1) v += __shfl_xor_sync(ALL_LANES, v, distance);
    return v;
}

// Sum over the block in every thread. `shared` has room for 32 numbers and is free for the next use on return.
template <typename T>
__device__ __forceinline__ T block_sum(T v, T* shared) {
    int lane = thread_number() % 32, warp = thread_number() / 32, warps = (threads_in_block() + 31) / 32;
    v = warp_sum(v);
    if (lane == 0) shared[warp] = v;
    __syncthreads();
    v = warp_sum(lane < warps ? shared[lane] : T(0));
    __syncthreads();
    return v;
}

#ifndef EMONET_SHIM

__device__ __forceinline__ void spin() {}

// x rounded to the 10 bits of mantissa that tensor cores keep of a TF32 number, halves away from zero.
__device__ __forceinline__ float to_tf32(float x) {
    u32 r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
    return __uint_as_float(r);
}

// Two numbers rounded to bfloat16, halves to even; lo in the lower 16 bits.
__device__ __forceinline__ u32 pack_bf16(float lo, float hi) {
    u32 r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}

// d (16 x 8) += a (16 x 8) b (8 x 8), one call of a whole warp. With g = lane / 4, t = lane % 4 (PTX ISA, mma.m16n8k8):
//   a: (g, t) (g + 8, t) (g, t + 4) (g + 8, t + 4)     b as (k, n): (t, g) (t + 4, g)
//   d: (g, 2 t) (g, 2 t + 1) (g + 8, 2 t) (g + 8, 2 t + 1)
__device__ __forceinline__ void mma_tf32(float d[4], const u32 a[4], const u32 b[2]) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// d (16 x 8) += a (16 x 16) b (16 x 8); every register of a and b is a pair, the lower half first (mma.m16n8k16, bf16):
//   a: (g, 2 t ..) (g + 8, 2 t ..) (g, 2 t + 8 ..) (g + 8, 2 t + 8 ..)     b as (k, n): (2 t .., g) (2 t + 8 .., g)
//   d as above
__device__ __forceinline__ void mma_bf16(float d[4], const u32 a[4], const u32 b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif

// No thread of the grid goes on before all have come here. For cooperative launches only, where all blocks run at once;
// *counter must be 0 at launch. Each block draws one ticket a barrier; a barrier is over when its last ticket is drawn.
__device__ __forceinline__ void grid_barrier(u32* counter) {
    __syncthreads();
    if (thread_number() == 0) {
        u32 blocks = gridDim.x * gridDim.y * gridDim.z;
        __threadfence();
        u32 last = (atomicAdd(counter, 1u) / blocks + 1) * blocks;
        while (*(volatile u32*)counter < last) spin();
        __threadfence();
    }
    __syncthreads();
}

// ---- what stands in front of a convolution (conv.cu, conv_grad.cu), applied while its input is loaded ----

enum {
    PLAIN,              // a
    NORM_RELU,          // max((a - mean) scale + shift, 0)
    NORM_GRAD,          // a scale + (z - mean) slope + shift: the gradient of what went into a batch norm
    NORM_GRAD_RELU,     // the same with a (y > 0) for a: the ReLU behind it, too
};
struct Source {
    const float *a, *y, *z;
    const float* constants;             // (4, channels): mean, scale, shift, slope
};

__device__ __forceinline__ void load4(float v[4], const float* p) {
    float4 q = *(const float4*)p;
    v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
}

// NaN stays NaN in both: max(x, 0), and the product of the definition, d (y > 0).
__device__ __forceinline__ float relu(float x) { return x < 0 ? 0.0f : x; }
__device__ __forceinline__ float masked(float d, float y) { return d * (y > 0 ? 1.0f : 0.0f); }

// v = four channels of the source at a, y, z [at ...]; k: their columns of the constants.
template <int KIND>
__device__ __forceinline__ void load_source(const Source& s, i64 at, const float k[4][4], float v[4]) {
    load4(v, s.a + at);
    if (KIND == PLAIN) return;
    float y[4] = {1, 1, 1, 1}, z[4] = {};
    if (KIND == NORM_GRAD_RELU) load4(y, s.y + at);
    if (KIND != NORM_RELU) load4(z, s.z + at);
#pragma unroll
    for (int e = 0; e < 4; e++) {
        if (KIND == NORM_RELU) v[e] = relu((v[e] - k[0][e]) * k[1][e] + k[2][e]);
        else v[e] = (KIND == NORM_GRAD ? v[e] : masked(v[e], y[e])) * k[1][e] + ((z[e] - k[0][e]) * k[3][e] + k[2][e]);
    }
}

// The four columns of the constants that belong to channels c ... of `channels`.
template <int KIND>
__device__ __forceinline__ void load_constants(const Source& s, int channels, int c, float k[4][4]) {
    if (KIND == PLAIN) return;
#pragma unroll
    for (int row = 0; row < 4; row++) load4(k[row], s.constants + row * channels + c);
}

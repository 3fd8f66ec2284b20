// 3x3 convolution, version 4 of 4: what ships. Arguments as in conv_1.c.
//
// What is new: from 8 channels on, Winograd's F(4x4, 3x3) (kernels/cpu/winograd.h; conv.h has what surrounds
// it). A tile of 6 x 6 inputs and the filters are turned into 36 numbers each by additions, multiplied
// element by element, and turned back into 4 x 4 outputs.
// Why it is faster: 36 multiplications for 16 outputs in place of 144. Summed over channels each of the 36
// points is a matrix product, so the register tile of version 3 is still what multiplies. Images are taken in
// bands that stay in the second-level cache, and in the package threads share the bands; here there is one
// thread.
// What limits it: the transforms. With few channels they cost nearly as much as the products, and a share of
// the peak, which counts the multiplications of the formula, says little: it may pass 100 %. The price is
// accuracy: numbers up to 8 times larger than the result cancel in between.
//
// This is the package's source under the package's switches; only the instruction set is chosen here, when it
// is compiled, and not when it is loaded.

#if defined(__AVX512F__) && defined(__AVX512VL__) && defined(__AVX512DQ__) && defined(__AVX512BW__)
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")
#define VL 16
#elif defined(__AVX2__) && defined(__FMA__)
#pragma GCC target("avx2,fma")
#define VL 8
#else
#define VL 4
#endif
#define VARIANT step
#include "../cpu/conv.h"
#include "../cpu/pool.c"

void conv3x3(int N, int H, int W, int C, int F, const float *x, const float *filters, float *y) {
    if (emonet_conv3x3_step(N, H, W, C, F, 1, 0, x, filters, y)) abort();            // no memory
}

// The kernels of convolution and of LSTM for processors with AVX512-BF16, and AMX where it may be used: the same sources once
// more, with products of rounded factors. Only entered where emonet_rounds says that there are such instructions.
#include "pool.h"
#ifdef HAS_BF16
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx512bf16,avx2,fma,amx-tile,amx-bf16")
#include <immintrin.h>
#define VL 16
#define VARIANT bf16
#define BF16
#include "infer.h"
#include "lstm.h"
#endif

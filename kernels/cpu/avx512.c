// The kernels for processors with avx512; only entered where emonet_supports says that there are such instructions.
#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")
#define VL 16
#define VARIANT avx512
#include "infer.h"
#include "lstm.h"
#include "pointwise.h"
#endif

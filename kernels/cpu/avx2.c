// The kernels for processors with avx2; only entered where emonet_supports says that there are such instructions.
#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define VL 8
#define VARIANT avx2
#include "infer.h"
#include "lstm.h"
#include "pointwise.h"
#endif

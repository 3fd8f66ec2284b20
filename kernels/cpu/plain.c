// Without special instructions: SSE2 on x86, NEON on arm64.

#define VL 4
#define VARIANT plain
#include "infer.h"
#include "lstm.h"
#include "pointwise.h"

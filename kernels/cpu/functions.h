// Functions of whole vectors: tanh, the logistic sigmoid, exp, square root, and the transpose of VL vectors.
//
// The C library computes these for one number at a time, with a branch for every special case. Here all lanes go the same
// way: the argument is limited to where the function is not yet constant, and a ratio or polynomial does the rest. Every
// comparison is written such that a NaN fails it and so passes through.
#pragma once
#include "simd.h"
#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

// The order of the operands matters: where one is a NaN, the minimum and maximum instructions return the second.
#if VL == 16
INLINE vec at_most(vec x, float limit) { return (vec)_mm512_min_ps((__m512)spread(limit), (__m512)x); }
INLINE vec at_least(vec x, float limit) { return (vec)_mm512_max_ps((__m512)spread(limit), (__m512)x); }
#elif VL == 8
INLINE vec at_most(vec x, float limit) { return (vec)_mm256_min_ps((__m256)spread(limit), (__m256)x); }
INLINE vec at_least(vec x, float limit) { return (vec)_mm256_max_ps((__m256)spread(limit), (__m256)x); }
#else
INLINE vec at_most(vec x, float limit) { return choose(x > limit, spread(limit), x); }
INLINE vec at_least(vec x, float limit) { return choose(x < limit, spread(limit), x); }
#endif

// x P(x^2) / Q(x^2) with P of degree 6 and Q of degree 3, the rational minimax approximation used by Eigen
// (Eigen/src/Core/MathFunctionsImpl.h, generic_fast_tanh_float): within 4.7 units in the last place, .8 on average, and
// exactly -1 or 1 from the limit on.
INLINE vec tanh_of(vec x) {
    vec a = at_least(at_most(x, 7.99881172180175781f), -7.99881172180175781f), z = a * a;
    vec p = z * -2.76076847742355e-16f + 2.00018790482477e-13f;
    p = p * z + -8.60467152213735e-11f;
    p = p * z + 5.12229709037114e-08f;
    p = p * z + 1.48572235717979e-05f;
    p = p * z + 6.37261928875436e-04f;
    p = p * z + 4.89352455891786e-03f;
    vec q = z * 1.19825839466702e-06f + 1.18534705686654e-04f;
    q = q * z + 2.26843463243900e-03f;
    q = q * z + 4.89352518554385e-03f;
    vec y = a * (p / q);
#ifndef __FMA__                                         // each product rounded on its own falls short of 1 at the limit
    y = choose(a == 7.99881172180175781f, spread(1), choose(a == -7.99881172180175781f, spread(-1), y));
#endif
    return y;
}

// As the definition has it: (1 + tanh(x / 2)) / 2 cannot overflow.
INLINE vec sigmoid_of(vec x) { return 0.5f * tanh_of(0.5f * x) + 0.5f; }

// exp(x) = 2^k exp(r), k = round(x / ln 2), |r| <= ln(2) / 2: r without rounding error by Cody and Waite's two-part
// ln 2, exp(r) as Cephes' expf has it (2 units in the last place). 0 below -104, infinite above 88.8; a factor of 2^k is
// applied in two halves, so that denormal results are right, too.
INLINE vec exp_of(vec x) {
    vec a = at_least(at_most(x, 89.0f), -104.0f);
    vec k = a * 1.44269504088896341f + 12582912.0f;               // 1.5 * 2^23: no digits behind the point are left
    ivec n = (ivec)k - 0x4B400000;
    k -= 12582912.0f;
    vec r = (a - k * 0.693359375f) - k * -2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    ivec half = n >> 1;
    p = p * (vec)((half + 127) << 23) * (vec)((n - half + 127) << 23);
    return choose(x == x, p, x);
}

INLINE vec sqrt_of(vec x) {
#if VL == 16
    return (vec)_mm512_sqrt_ps((__m512)x);
#elif VL == 8
    return (vec)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE2__)
    return (vec)_mm_sqrt_ps((__m128)x);
#elif defined(__aarch64__)
    return (vec)vsqrtq_f32((float32x4_t)x);
#else
    for (int i = 0; i < VL; i++) x[i] = sqrtf(x[i]);
    return x;
#endif
}

// r[i][j] and r[j][i] change places: first single lanes between neighbouring vectors, then pairs, fours, eights.
#if VL == 16
#define LANES 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
#elif VL == 8
#define LANES 0, 1, 2, 3, 4, 5, 6, 7
#else
#define LANES 0, 1, 2, 3
#endif
INLINE void transpose(vec *r) {
    const ivec lane = {LANES};
    UNROLL for (int s = 1; s < VL; s *= 2) {
        ivec odd = (lane & s) != 0;
        ivec low = (odd & (lane - s + VL)) | (~odd & lane), high = (odd & (lane + VL)) | (~odd & (lane + s));
        UNROLL for (int i = 0; i < VL; i++)
            if (!(i & s)) {
                vec a = r[i], b = r[i + s];
                r[i] = __builtin_shuffle(a, b, low);
                r[i + s] = __builtin_shuffle(a, b, high);
            }
    }
}

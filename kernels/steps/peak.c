// Multiply-adds on nothing but registers: the most that one core can do. 24 sums, so that none is waited for.
#if defined(__AVX512F__)
enum { VL = 16, SUMS = 24 };
#elif defined(__AVX__)
enum { VL = 8, SUMS = 12 };
#else
enum { VL = 4, SUMS = 12 };
#endif
typedef float vec __attribute__((vector_size(4 * VL), aligned(4)));

// Returns how many operations it did in `rounds`; *out keeps the compiler from leaving them out.
double peak(long rounds, float *out) {
    vec sum[SUMS], a = *out - (vec){0};
    for (int i = 0; i < SUMS; i++) sum[i] = a + (float)i;             // equal sums would be computed once
    for (long k = 0; k < rounds; k++) {
#pragma GCC unroll 24
        for (int i = 0; i < SUMS; i++) sum[i] = sum[i] * a + a;
    }
    for (int i = 0; i < SUMS; i++) *out += sum[i][0];
    return 2.0 * VL * SUMS * rounds;
}

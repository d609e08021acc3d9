/* Vectors of W floats, in the compiler's own vector types: AVX-512, AVX2 and NEON from the same lines. */
#ifndef PARGO_VECTORS_H
#define PARGO_VECTORS_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVX512F__
#define W 16
#else
#define W 8
#endif

#define INLINE static inline __attribute__((always_inline))
/* kernels whose registers are better allocated by themselves */
#define NOINLINE __attribute__((noinline, unused)) static

typedef float vec __attribute__((vector_size(4 * W)));
typedef float vec_anywhere __attribute__((vector_size(4 * W), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(4 * W)));
/* where bits are shifted and may run over */
typedef uint32_t uvec __attribute__((vector_size(4 * W)));

#ifndef __has_builtin
#define __has_builtin(name) 0
#endif
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#endif

INLINE vec load(const float *from) { return *(const vec_anywhere *)from; }
INLINE void store(float *to, vec x) { *(vec_anywhere *)to = x; }
INLINE vec all(float x) { return x - (vec){0}; }
INLINE vec choose(ivec where, vec a, vec b) { return (vec)(((ivec)a & where) | ((ivec)b & ~where)); }
/* a NaN in a stays; one in b is passed over: sums carry it */
INLINE vec larger(vec a, vec b) { return choose(b > a, b, a); }
INLINE vec at_least_lowest(vec x) { return choose(x < -FLT_MAX, all(-FLT_MAX), x); }

/* e ** x within 2 ulp, for x up to 88; 0 below the smallest normal number; NaN stays NaN. Polynomial of Cephes' expf. */
INLINE vec exp_of(vec x) {
    ivec tiny = x < -87.3f;
    /* the sum's last bits are the rounded exponent */
    vec shifted = x * 1.44269504088896341f + 12582912.0f, n = shifted - 12582912.0f;
    vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    return choose(tiny, all(0.0f), p * (vec)(((uvec)shifted << 23) + 0x3f800000u));
}

/* natural logarithm of x > 0, not subnormal; NaN and infinity stay, 0 gives some number. Polynomial of Cephes' logf. */
INLINE vec log_of(vec x) {
    ivec bits = (ivec)x, unchanged = ~(x <= FLT_MAX);
    ivec exponent = (bits >> 23) - 126;
    vec f = (vec)((bits & 0x007fffff) | 0x3f000000);
    ivec low = f < 0.70710678118654752f;
    exponent += low;
    f = choose(low, f + f, f) - 1.0f;
    vec z = f * f, e = __builtin_convertvector(exponent, vec), p = all(7.0376836292e-2f);
    p = p * f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    vec y = p * f * z - e * 2.12194440e-4f - 0.5f * z + f + e * 0.693359375f;
    return choose(unchanged, x, y);
}

/* 1 / total, 0 for a row that saw nothing */
INLINE vec share(vec total) { return choose(total == 0.0f, all(0.0f), 1.0f / total); }

/* halves of blocks of 8, 4, 2, 1: the steps of a transposition, and of W sums at once */
#if W == 16
INLINE vec low8(vec a, vec b) { return SHUFFLE(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23); }
INLINE vec high8(vec a, vec b) { return SHUFFLE(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31); }
INLINE vec low4(vec a, vec b) { return SHUFFLE(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27); }
INLINE vec high4(vec a, vec b) { return SHUFFLE(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31); }
INLINE vec low2(vec a, vec b) { return SHUFFLE(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29); }
INLINE vec high2(vec a, vec b) { return SHUFFLE(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31); }
INLINE vec low1(vec a, vec b) { return SHUFFLE(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30); }
INLINE vec high1(vec a, vec b) { return SHUFFLE(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31); }
#else
INLINE vec low4(vec a, vec b) { return SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11); }
INLINE vec high4(vec a, vec b) { return SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15); }
INLINE vec low2(vec a, vec b) { return SHUFFLE(a, b, 0, 1, 8, 9, 4, 5, 12, 13); }
INLINE vec high2(vec a, vec b) { return SHUFFLE(a, b, 2, 3, 10, 11, 6, 7, 14, 15); }
INLINE vec low1(vec a, vec b) { return SHUFFLE(a, b, 0, 8, 2, 10, 4, 12, 6, 14); }
INLINE vec high1(vec a, vec b) { return SHUFFLE(a, b, 1, 9, 3, 11, 5, 13, 7, 15); }
#endif

/* lanes that lie half a vector, a quarter and an eighth apart change places */
#if W == 16
INLINE vec swap_halves(vec x) { return SHUFFLE(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7); }
INLINE vec swap_quarters(vec x) { return SHUFFLE(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11); }
INLINE vec swap_eighths(vec x) { return SHUFFLE(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13); }
#else
INLINE vec swap_halves(vec x) { return SHUFFLE(x, x, 4, 5, 6, 7, 0, 1, 2, 3); }
INLINE vec swap_quarters(vec x) { return SHUFFLE(x, x, 2, 3, 0, 1, 6, 7, 4, 5); }
INLINE vec swap_eighths(vec x) { return SHUFFLE(x, x, 1, 0, 3, 2, 5, 4, 7, 6); }
#endif

/* lane i of the result is the sum of x[i]'s lanes; x is used up */
INLINE vec sums(vec *x) {
#if W == 16
    for (int i = 0; i < 8; i++) x[i] = low8(x[i], x[i + 8]) + high8(x[i], x[i + 8]);
#endif
    for (int i = 0; i < 4; i++) x[i] = low4(x[i], x[i + 4]) + high4(x[i], x[i + 4]);
    for (int i = 0; i < 2; i++) x[i] = low2(x[i], x[i + 2]) + high2(x[i], x[i + 2]);
    return low1(x[0], x[1]) + high1(x[0], x[1]);
}

/* W rows of W columns, in place */
INLINE void transpose(vec *x) {
#define STEP(n)                                                   \
    for (int i = 0; i < W; i++)                                   \
        if (!(i & n)) {                                           \
            vec a = x[i], b = x[i + n];                           \
            x[i] = low##n(a, b);                                  \
            x[i + n] = high##n(a, b);                             \
        }
#if W == 16
    STEP(8)
#endif
    STEP(4)
    STEP(2)
    STEP(1)
#undef STEP
}

INLINE float sum(vec x) {
    float total = 0;
    for (int i = 0; i < W; i++) total += x[i];
    return total;
}

INLINE float largest(vec x) {
    float peak = x[0];
    for (int i = 1; i < W; i++) peak = x[i] > peak ? x[i] : peak;
    return peak;
}

#endif

/* The products of both attentions. Rows in lanes: a block of W query rows against keys of D columns, D a multiple of W.

   The first three are matrix products that hold a block of sums in registers: a number that is loaded from memory is multiplied
   with all W rows. */
#ifndef PARGO_PRODUCTS_H
#define PARGO_PRODUCTS_H

#include "vectors.h"

/* Zen 4 loads and multiplies 512 bits in two halves, and to spread one number over 512 takes twice as long as over 256: W rows
   are PARTS vectors of N there. Compilers that do not know it take it for Zen 3 with AVX-512. */
#if W == 16 && (defined(__znver3__) || defined(__znver4__))
#define N 8
#else
#define N W
#endif
#define PARTS (W / N)
typedef float part __attribute__((vector_size(4 * N)));
typedef float part_anywhere __attribute__((vector_size(4 * N), aligned(4)));

INLINE part load_part(const float *from) { return *(const part_anywhere *)from; }
INLINE void store_part(float *to, part x) { *(part_anywhere *)to = x; }

/* S[j] = rows . x_j for `keys` keys */
INLINE void some_scores(const float *columns, const float *x, int64_t stride, int keys, int D, float *S) {
    part sums[8][PARTS];
    for (int j = 0; j < keys; j++)
        for (int p = 0; p < PARTS; p++) sums[j][p] = (part){0};
    for (int d = 0; d < D; d++) {
        part rows[PARTS];
        for (int p = 0; p < PARTS; p++) rows[p] = load_part(columns + d * W + p * N);
        for (int j = 0; j < keys; j++) {
            part y = x[j * stride + d] - (part){0};
            for (int p = 0; p < PARTS; p++) sums[j][p] += rows[p] * y;
        }
    }
    for (int j = 0; j < keys; j++)
        for (int p = 0; p < PARTS; p++) store_part(S + j * W + p * N, sums[j][p]);
}

/* S[j] = rows . x_j, for rows given by columns: columns[d] holds column d of W rows */
NOINLINE void scores(const vec *columns, const float *x, int64_t stride, int n, int D, vec *S) {
    int j = 0;
    for (; j + 8 <= n; j += 8) some_scores((const float *)columns, x + j * stride, stride, 8, D, (float *)(S + j));
    for (; j + 2 <= n; j += 2) some_scores((const float *)columns, x + j * stride, stride, 2, D, (float *)(S + j));
    for (; j < n; j++) some_scores((const float *)columns, x + j * stride, stride, 1, D, (float *)(S + j));
}

/* columns[d] = columns[d] * keep + sum over j of P[j] x_j[d] */
NOINLINE void gather(vec *columns, vec keep, const vec *P, const float *x, int64_t stride, int n, int D) {
    for (int d = 0; d < D; d += 8) {
        part sums[8][PARTS];
        for (int i = 0; i < 8; i++)
            for (int p = 0; p < PARTS; p++)
                sums[i][p] = load_part((const float *)(columns + d + i) + p * N) * load_part((const float *)&keep + p * N);
        for (int j = 0; j < n; j++) {
            part weights[PARTS];
            for (int p = 0; p < PARTS; p++) weights[p] = load_part((const float *)(P + j) + p * N);
            for (int i = 0; i < 8; i++) {
                part y = x[j * stride + d + i] - (part){0};
                for (int p = 0; p < PARTS; p++) sums[i][p] += weights[p] * y;
            }
        }
        for (int i = 0; i < 8; i++)
            for (int p = 0; p < PARTS; p++) store_part((float *)(columns + d + i) + p * N, sums[i][p]);
    }
}

INLINE void some_spread(const float *P, const float *rows, int64_t row_stride, int count, float *y, int64_t stride, int keys) {
    part sums[8][PARTS];
    for (int j = 0; j < keys; j++)
        for (int p = 0; p < PARTS; p++) sums[j][p] = load_part(y + j * stride + p * N);
    for (int row = 0; row < count; row++) {
        part columns[PARTS];
        for (int p = 0; p < PARTS; p++) columns[p] = load_part(rows + row * row_stride + p * N);
        for (int j = 0; j < keys; j++) {
            part weight = P[j * W + row] - (part){0};
            for (int p = 0; p < PARTS; p++) sums[j][p] += columns[p] * weight;
        }
    }
    for (int j = 0; j < keys; j++)
        for (int p = 0; p < PARTS; p++) store_part(y + j * stride + p * N, sums[j][p]);
}

/* y_j += sum over the first `count` rows of P[j][row] rows[row] */
NOINLINE void spread(const vec *P, const float *rows, int64_t row_stride, int count, float *y, int64_t stride, int n, int D) {
    for (int d = 0; d < D; d += W) {
        int j = 0;
        for (; j + 8 <= n; j += 8)
            some_spread((const float *)(P + j), rows + d, row_stride, count, y + j * stride + d, stride, 8);
        for (; j < n; j++) some_spread((const float *)(P + j), rows + d, row_stride, count, y + j * stride + d, stride, 1);
    }
}

/* products of two rows, lane by lane: their sum is the dot product */
INLINE vec by_lanes(const float *a, const float *b, int D) {
    vec total = load(a) * load(b);
    for (int d = W; d < D; d += W) total += load(a + d) * load(b + d);
    return total;
}

/* to = to * keep (0 where `fresh`) + sum over j of weights[j * step] x_j */
INLINE void combine(float *to, int fresh, float keep, const float *weights, int step, const float *x, int64_t stride, int n, int D) {
    int d = 0;
    for (; d + 4 * W <= D; d += 4 * W) {
        vec sums[4];
        for (int i = 0; i < 4; i++) sums[i] = fresh ? all(0.0f) : load(to + d + i * W) * keep;
        for (int j = 0; j < n; j++)
            for (int i = 0; i < 4; i++) sums[i] += load(x + j * stride + d + i * W) * weights[j * step];
        for (int i = 0; i < 4; i++) store(to + d + i * W, sums[i]);
    }
    for (; d < D; d += W) {
        vec sums = fresh ? all(0.0f) : load(to + d) * keep;
        for (int j = 0; j < n; j++) sums += load(x + j * stride + d) * weights[j * step];
        store(to + d, sums);
    }
}

/* to = (0 where `fresh`, else to) + weight * row */
INLINE void add_row(float *to, int fresh, float weight, const float *row, int D) {
    for (int d = 0; d < D; d += W) {
        vec x = load(row + d) * weight;
        store(to + d, fresh ? x : load(to + d) + x);
    }
}

/* columns of up to W rows times a factor, those that are missing 0 */
NOINLINE void columns_of(const float *rows, int64_t stride, int count, float factor, int D, vec *columns) {
    for (int d = 0; d < D; d += W) {
        for (int i = 0; i < W; i++) columns[d + i] = i < count ? load(rows + i * stride + d) * factor : all(0.0f);
        transpose(columns + d);
    }
}

/* back: rows of columns times a factor for each row; columns are used up */
NOINLINE void rows_of(vec *columns, vec factor, int count, int D, float *rows, int64_t stride) {
    for (int d = 0; d < D; d += W) {
        for (int i = 0; i < W; i++) columns[d + i] *= factor;
        transpose(columns + d);
        for (int i = 0; i < count; i++) store(rows + i * stride + d, columns[d + i]);
    }
}

#endif

/* The four products of both attentions. Rows in lanes: a block of W query rows against keys of D columns, D a multiple of W.

   Each keeps eight sums in registers and multiplies one vector by eight numbers from memory at a time. */
#ifndef PARGO_PRODUCTS_H
#define PARGO_PRODUCTS_H

#include "vectors.h"

/* keys of a tile: its scores, its keys and its values stay in the first cache */
#define TILE 64

/* S[j] = rows . x_j, for rows given by columns: columns[d] holds column d of W rows */
INLINE void scores(const vec *columns, const float *x, int64_t stride, int n, int D, vec *S) {
    int j = 0;
    for (; j + 8 <= n; j += 8) {
        const float *y = x + j * stride;
        vec a0 = {0}, a1 = {0}, a2 = {0}, a3 = {0}, a4 = {0}, a5 = {0}, a6 = {0}, a7 = {0};
        for (int d = 0; d < D; d++) {
            vec q = columns[d];
            a0 += q * y[d];
            a1 += q * y[stride + d];
            a2 += q * y[2 * stride + d];
            a3 += q * y[3 * stride + d];
            a4 += q * y[4 * stride + d];
            a5 += q * y[5 * stride + d];
            a6 += q * y[6 * stride + d];
            a7 += q * y[7 * stride + d];
        }
        S[j] = a0, S[j + 1] = a1, S[j + 2] = a2, S[j + 3] = a3, S[j + 4] = a4, S[j + 5] = a5, S[j + 6] = a6, S[j + 7] = a7;
    }
    for (; j < n; j++) {
        const float *y = x + j * stride;
        vec a0 = {0}, a1 = {0}, a2 = {0}, a3 = {0};
        for (int d = 0; d < D; d += 4) {
            a0 += columns[d] * y[d];
            a1 += columns[d + 1] * y[d + 1];
            a2 += columns[d + 2] * y[d + 2];
            a3 += columns[d + 3] * y[d + 3];
        }
        S[j] = (a0 + a1) + (a2 + a3);
    }
}

/* columns[d] = columns[d] * keep + sum over j of P[j] x_j[d] */
INLINE void gather(vec *columns, vec keep, const vec *P, const float *x, int64_t stride, int n, int D) {
    for (int d = 0; d < D; d += 8) {
        vec a[8];
        for (int i = 0; i < 8; i++) a[i] = columns[d + i] * keep;
        for (int j = 0; j < n; j++) {
            const float *y = x + j * stride + d;
            vec p = P[j];
            for (int i = 0; i < 8; i++) a[i] += p * y[i];
        }
        for (int i = 0; i < 8; i++) columns[d + i] = a[i];
    }
}

/* y_j += sum over the first `count` rows of P[j][row] rows[row] */
INLINE void spread(const vec *P, const float *rows, int64_t row_stride, int count, float *y, int64_t stride, int n, int D) {
    const float *p = (const float *)P;
    for (int d = 0; d < D; d += W) {
        int j = 0;
        for (; j + 8 <= n; j += 8) {
            vec a[8];
            for (int i = 0; i < 8; i++) a[i] = load(y + (j + i) * stride + d);
            for (int row = 0; row < count; row++) {
                vec r = load(rows + row * row_stride + d);
                for (int i = 0; i < 8; i++) a[i] += r * p[(j + i) * W + row];
            }
            for (int i = 0; i < 8; i++) store(y + (j + i) * stride + d, a[i]);
        }
        for (; j < n; j++) {
            vec a = load(y + j * stride + d);
            for (int row = 0; row < count; row++) a += load(rows + row * row_stride + d) * p[j * W + row];
            store(y + j * stride + d, a);
        }
    }
}

/* products of two rows, lane by lane: their sum is the dot product */
INLINE vec by_lanes(const float *a, const float *b, int D) {
    vec total = load(a) * load(b);
    for (int d = W; d < D; d += W) total += load(a + d) * load(b + d);
    return total;
}

/* columns of up to W rows, those that are missing 0 */
INLINE void columns_of(const float *rows, int64_t stride, int count, int D, vec *columns) {
    for (int d = 0; d < D; d += W) {
        for (int i = 0; i < W; i++) columns[d + i] = i < count ? load(rows + i * stride + d) : all(0.0f);
        transpose(columns + d);
    }
}

/* back: rows of columns times a factor for each row; columns are used up */
INLINE void rows_of(vec *columns, vec factor, int count, int D, float *rows, int64_t stride) {
    for (int d = 0; d < D; d += W) {
        for (int i = 0; i < W; i++) columns[d + i] *= factor;
        transpose(columns + d);
        for (int i = 0; i < count; i++) store(rows + i * stride + d, columns[d + i]);
    }
}

#endif

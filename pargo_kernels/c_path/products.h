/* The products of both attentions. Rows in lanes: a block of VECTORS vectors of query rows against keys of D columns, D a multiple of
   W. A matrix of a block has VECTORS vectors for each key, or for each column. Whoever includes this says how many: with 16 registers
   of 8 floats, products of two vectors load two numbers for three sums, those of one nine for eight.

   The first three are matrix products that hold a block of sums in registers: a number that is loaded from memory is multiplied
   with all rows of the block. */
#ifndef PARGO_PRODUCTS_H
#define PARGO_PRODUCTS_H

#include "vectors.h"

#define LANES (VECTORS * W)

/* Zen 4 loads and multiplies 512 bits in two halves, and to spread one number over 512 takes twice as long as over 256: vectors are
   two parts of N there. Compilers that do not know it take it for Zen 3 with AVX-512. */
#if W == 16 && (defined(__znver3__) || defined(__znver4__))
#define N 8
#else
#define N W
#endif
#define PARTS (LANES / N)
typedef float part __attribute__((vector_size(4 * N)));
typedef float part_anywhere __attribute__((vector_size(4 * N), aligned(4)));

INLINE part load_part(const float *from) { return *(const part_anywhere *)from; }
INLINE void store_part(float *to, part x) { *(part_anywhere *)to = x; }

/* n rows of sums, from j on, in pieces that the registers hold; PIECE is given the parts and how many rows. With 16 registers a piece
   of two parts is shorter, and 8 that are left are two pieces of 4, not 6 and 2: each sum waits for itself. */
#define IN_PIECES(n, parts, PIECE)                                   \
    {                                                                \
        int j = 0;                                                   \
        if ((parts) == 2 && W == 8)                                  \
            for (; (n)-j >= 6 && (n)-j != 8; j += 6) PIECE(parts, 6) \
        else                                                         \
            for (; (n)-j >= 8; j += 8) PIECE(parts, 8)               \
        for (; (n)-j >= 4; j += 4) PIECE(parts, 4)                   \
        for (; (n)-j >= 2; j += 2) PIECE(parts, 2)                   \
        for (; j < (n); j++) PIECE(parts, 1)                         \
    }

INLINE void some_scores(const float *columns, const float *x, int64_t stride, int keys, int D, float *S) {
    part sums[8][PARTS];
    for (int j = 0; j < keys; j++)
        for (int p = 0; p < PARTS; p++) sums[j][p] = (part){0};
    for (int d = 0; d < D; d++) {
        part rows[PARTS];
        for (int p = 0; p < PARTS; p++) rows[p] = load_part(columns + d * LANES + p * N);
        for (int j = 0; j < keys; j++) {
            part y = x[j * stride + d] - (part){0};
            for (int p = 0; p < PARTS; p++) sums[j][p] += rows[p] * y;
        }
    }
    for (int j = 0; j < keys; j++)
        for (int p = 0; p < PARTS; p++) store_part(S + j * LANES + p * N, sums[j][p]);
}

/* S[j] = rows . x_j, for rows given by columns: columns[d] holds column d of the block */
NOINLINE void scores(const vec *columns, const float *x, int64_t stride, int n, int D, vec *S) {
#define PIECE(parts, keys) some_scores((const float *)columns, x + j * stride, stride, keys, D, (float *)(S + j * VECTORS));
    IN_PIECES(n, PARTS, PIECE)
#undef PIECE
}

INLINE void some_gather(float *columns, const float *keep, const float *P, const float *x, int64_t stride, int n, int count) {
    part sums[8][PARTS];
    for (int i = 0; i < count; i++)
        for (int p = 0; p < PARTS; p++) {
            part sum = load_part(columns + i * LANES + p * N);
            sums[i][p] = keep ? sum * load_part(keep + p * N) : sum;
        }
    for (int j = 0; j < n; j++) {
        part weights[PARTS];
        for (int p = 0; p < PARTS; p++) weights[p] = load_part(P + j * LANES + p * N);
        for (int i = 0; i < count; i++) {
            part y = x[j * stride + i] - (part){0};
            for (int p = 0; p < PARTS; p++) sums[i][p] += weights[p] * y;
        }
    }
    for (int i = 0; i < count; i++)
        for (int p = 0; p < PARTS; p++) store_part(columns + i * LANES + p * N, sums[i][p]);
}

/* columns[d] = columns[d] * keep (1 where NULL) + sum over j of P[j] x_j[d] */
NOINLINE void gather(vec *columns, const vec *keep, const vec *P, const float *x, int64_t stride, int n, int D) {
#define PIECE(parts, count) \
    some_gather((float *)(columns + j * VECTORS), (const float *)keep, (const float *)P, x + j, stride, n, count);
    IN_PIECES(D, PARTS, PIECE)
#undef PIECE
}

INLINE void some_spread(const float *P, int parts, const float *rows, int64_t row_stride, int count, float *y, int64_t stride,
                        int keys) {
    part sums[8][2];
    for (int j = 0; j < keys; j++)
        for (int p = 0; p < parts; p++) sums[j][p] = load_part(y + j * stride + p * N);
    for (int row = 0; row < count; row++) {
        part columns[2];
        for (int p = 0; p < parts; p++) columns[p] = load_part(rows + row * row_stride + p * N);
        for (int j = 0; j < keys; j++) {
            part weight = P[j * LANES + row] - (part){0};
            for (int p = 0; p < parts; p++) sums[j][p] += columns[p] * weight;
        }
    }
    for (int j = 0; j < keys; j++)
        for (int p = 0; p < parts; p++) store_part(y + j * stride + p * N, sums[j][p]);
}

/* y_j += sum over the first `count` rows of P[j][row] rows[row] */
NOINLINE void spread(const vec *P, const float *rows, int64_t row_stride, int count, float *y, int64_t stride, int n, int D) {
#define PIECE(parts, keys) \
    some_spread((const float *)(P + j * VECTORS), parts, rows + d, row_stride, count, y + j * stride + d, stride, keys);
    int d = 0;
    for (; D - d >= PARTS * N; d += PARTS * N) IN_PIECES(n, PARTS, PIECE)
    for (; d < D; d += N) IN_PIECES(n, 1, PIECE)
#undef PIECE
}

/* scores of n keys into weights, the softmax carried on: what was gathered before is multiplied with keep */
INLINE void weigh(vec *S, int n, vec *peak, vec *total, vec *keep) {
    for (int p = 0; p < VECTORS; p++) {
        vec largest = peak[p], sum = {0};
        for (int j = p; j < n * VECTORS; j += VECTORS) largest = larger(largest, S[j]);
        vec base = at_least_lowest(largest);
        keep[p] = exp_of(peak[p] - base);
        for (int j = p; j < n * VECTORS; j += VECTORS) sum += S[j] = exp_of(S[j] - base);
        total[p] = total[p] * keep[p] + sum;
        peak[p] = largest;
    }
}

/* scores of n keys into weights, and the gradients of weights in P into those of scores */
INLINE void weigh_again(vec *S, vec *P, int n, const vec *lse, const vec *delta, float scale) {
    for (int p = 0; p < VECTORS; p++)
        for (int j = p; j < n * VECTORS; j += VECTORS) {
            S[j] = exp_of(S[j] - lse[p]);
            P[j] = S[j] * (P[j] - delta[p]) * scale;
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

/* columns of up to LANES rows times a factor, those that are missing 0 */
NOINLINE void columns_of(const float *rows, int64_t stride, int count, float factor, int D, vec *columns) {
    for (int p = 0; p < VECTORS; p++)
        for (int d = 0; d < D; d += W) {
            vec x[W];
            for (int i = 0; i < W; i++) x[i] = p * W + i < count ? load(rows + (p * W + i) * stride + d) * factor : all(0.0f);
            transpose(x);
            for (int i = 0; i < W; i++) columns[(d + i) * VECTORS + p] = x[i];
        }
}

/* back: rows of columns times a factor for each row (1 where NULL) */
NOINLINE void rows_of(const vec *columns, const vec *factors, int count, int D, float *rows, int64_t stride) {
    for (int p = 0; p < VECTORS; p++)
        for (int d = 0; d < D; d += W) {
            vec x[W];
            for (int i = 0; i < W; i++) x[i] = columns[(d + i) * VECTORS + p] * (factors ? factors[p] : all(1.0f));
            transpose(x);
            for (int i = 0; i < W && p * W + i < count; i++) store(rows + (p * W + i) * stride + d, x[i]);
        }
}

#endif

/* Rows of a tensor as fp32 rows of D columns, D the head dimension rounded up to whole vectors (columns past it are 0).

   Rows that lie so in memory are used where they are; others are copied to a buffer, and copied back. */
#ifndef PARGO_ROWS_H
#define PARGO_ROWS_H

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "call.h"
#include "vectors.h"

#ifdef __FLT16_MAX__
typedef _Float16 half;
#else
/* never reached: pargo_dtypes says that this build has none */
typedef uint16_t half;
#endif

typedef struct {
    float *data;
    int64_t stride;
} Rows;

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t greater(int64_t a, int64_t b) { return a > b ? a : b; }

INLINE int64_t whole_vectors(int64_t head_dim) { return (head_dim + W - 1) / W * W; }

INLINE int64_t offset_of(const Tensor *t, int64_t batch, int64_t head, int64_t token) {
    return batch * t->batch + head * t->head + token * t->token;
}

/* whether rows serve as they lie; rows that are read again and again must also lie side by side: rows that a power of two
   parts fall on the same lines of a cache */
INLINE int in_place(const Call *call, const Tensor *t, int again) {
    return call->dtype == FLOAT32 && t->column == 1 && call->head_dim % W == 0 && !(again && t->token != call->head_dim);
}

INLINE float widened(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float wide;
    memcpy(&wide, &bits, 4);
    return wide;
}

/* to the nearest, ties to even; NaN stays NaN */
INLINE uint16_t narrowed(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16, quiet = (bits >> 16) | 0x40;
    return (bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded;
}

#define COPY(type, column_stride, to, from)                                       \
    for (int64_t d = 0; d < head_dim; d++) {                                      \
        type *at = (type *)t->data + offset + d * (column_stride);                \
        to = from;                                                                \
    }
#define COPY_ANY(type, to, from)                                                  \
    if (t->column == 1) {                                                         \
        COPY(type, 1, to, from)                                                   \
    } else {                                                                      \
        COPY(type, t->column, to, from)                                           \
    }

static void load_row(const Call *call, const Tensor *t, int64_t offset, float *row) {
    int64_t head_dim = call->head_dim;
    if (call->dtype == FLOAT32) {
        COPY_ANY(const float, row[d], *at)
    } else if (call->dtype == BFLOAT16) {
        COPY_ANY(const uint16_t, row[d], widened(*at))
    } else {
        COPY_ANY(const half, row[d], (float)*at)
    }
    for (int64_t d = head_dim; d < whole_vectors(head_dim); d++) row[d] = 0;
}

static void store_row(const Call *call, const Tensor *t, int64_t offset, const float *row) {
    int64_t head_dim = call->head_dim;
    if (call->dtype == FLOAT32) {
        COPY_ANY(float, *at, row[d])
    } else if (call->dtype == BFLOAT16) {
        COPY_ANY(uint16_t, *at, narrowed(row[d]))
    } else {
        COPY_ANY(half, *at, (half)row[d])
    }
}

/* rows to read: where they are, or copied to the buffer */
INLINE Rows rows_at(const Call *call, const Tensor *t, int64_t batch, int64_t head, int64_t first, int64_t count, int again,
                    float *buffer) {
    int64_t D = whole_vectors(call->head_dim), offset = offset_of(t, batch, head, first);
    if (in_place(call, t, again)) return (Rows){(float *)t->data + offset, t->token};
    for (int64_t i = 0; i < count; i++) load_row(call, t, offset + i * t->token, buffer + i * D);
    return (Rows){buffer, D};
}

/* rows to write: where they belong, or the buffer; put_back when they are complete */
INLINE Rows place_for(const Call *call, const Tensor *t, int64_t batch, int64_t head, int64_t first, int again, float *buffer) {
    if (in_place(call, t, again)) return (Rows){(float *)t->data + offset_of(t, batch, head, first), t->token};
    return (Rows){buffer, whole_vectors(call->head_dim)};
}

INLINE void put_back(const Call *call, const Tensor *t, int64_t batch, int64_t head, int64_t first, int64_t count, int again,
                     Rows rows) {
    if (in_place(call, t, again)) return;
    int64_t offset = offset_of(t, batch, head, first);
    for (int64_t i = 0; i < count; i++) store_row(call, t, offset + i * t->token, rows.data + i * rows.stride);
}

/* An output that fills memory which the process has just been given: large pages, where the system gives them to who asks, are a
   few hundred times as few to ask for. Smaller ones the allocator mostly has from before. */
#define LARGE_OUTPUT (32ll << 20)
#define LARGE_PAGE (2ll << 20)

static void in_large_pages(const Call *call, const Tensor *t, int64_t heads, int64_t tokens) {
#ifdef MADV_HUGEPAGE
    int64_t batch = call->cu_seqlens && t != &call->out && t != &call->grad_query ? 1 : call->batch;
    int64_t last = (batch - 1) * t->batch + (heads - 1) * t->head + (tokens - 1) * t->token + (call->head_dim - 1) * t->column;
    int64_t bytes = (last + 1) * (call->dtype == FLOAT32 ? 4 : 2);
    uintptr_t begin = ((uintptr_t)t->data + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE, end = (uintptr_t)t->data + bytes;
    /* advice: where it is not taken, nothing is lost */
    if (bytes >= LARGE_OUTPUT && end > begin) madvise((void *)begin, (end - begin) / LARGE_PAGE * LARGE_PAGE, MADV_HUGEPAGE);
#else
    (void)call, (void)t, (void)heads, (void)tokens;
#endif
}

static void outputs_in_large_pages(const Call *call, int backward) {
    int64_t heads = call->num_kv_heads * call->group;
    if (!backward) {
        in_large_pages(call, &call->out, heads, call->num_query);
        return;
    }
    in_large_pages(call, &call->grad_query, heads, call->num_query);
    in_large_pages(call, &call->grad_key, call->num_kv_heads, call->num_keys);
    in_large_pages(call, &call->grad_value, call->num_kv_heads, call->num_keys);
}

/* of lse and grad_lse */
INLINE float *number_at(const Tensor *t, int64_t batch, int64_t head, int64_t row) {
    return (float *)t->data + offset_of(t, batch, head, row);
}

#endif

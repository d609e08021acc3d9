/* What a call hands over: the same struct for both attentions and both directions (library.py mirrors it, field by field). */
#ifndef PARGO_CALL_H
#define PARGO_CALL_H

#include <stdint.h>

/* [batch, heads, tokens, columns], or without columns for lse; strides in elements */
typedef struct {
    void *data;
    int64_t batch, head, token, column;
} Tensor;

enum { FLOAT32 = 0, BFLOAT16 = 1, FLOAT16 = 2 };

typedef struct {
    /* of one dtype; lse and grad_lse are fp32; data is NULL where a direction has no such tensor */
    Tensor query, key, value, out, lse, grad_out, grad_lse, grad_query, grad_key, grad_value;
    /* batch + 1 offsets of packed images, else NULL: key, value and their gradients then have one row of batch */
    const int32_t *cu_seqlens;
    int64_t batch, num_kv_heads, group, num_query, num_keys, head_dim, num_partial;
    /* of the cascade alone; clamp is 1 or 0 (truncate) */
    int64_t window, clamp;
    int64_t dtype, threads;
    float scale;
} Call;

/* nothing else of the library is seen from outside: the names of others' libraries are theirs */
#define ENTRY __attribute__((visibility("default")))

/* 0, or 1 where memory ran out and nothing can be relied on */
ENTRY int pargo_partial_global_forward(const Call *call);
ENTRY int pargo_partial_global_backward(const Call *call);
ENTRY int pargo_cascaded_forward(const Call *call);
ENTRY int pargo_cascaded_backward(const Call *call);

/* sizeof(Call), and a bit for each dtype that this build computes: whoever loads the library asks first */
ENTRY int64_t pargo_call_bytes(void);
ENTRY int64_t pargo_dtypes(void);

#endif

/* Items of work, spread over threads; nothing outlives the call. */
#ifndef PARGO_PARALLEL_H
#define PARGO_PARALLEL_H

#include <stddef.h>
#include <stdint.h>

/* `scratch` is 64-byte aligned and of the thread's own */
typedef void (*Work)(const void *state, int64_t item, char *scratch);

/* room for `bytes` in a scratch, counted from wherever `at` begins */
static inline void *take(uintptr_t *at, size_t bytes) {
    uintptr_t begin = *at;
    *at += (bytes + 63) / 64 * 64;
    return (void *)begin;
}

/* Every item once, in any order, on up to `threads` threads; on the caller's alone where the operations are few.
   0, or 1 where there is no memory for scratch. */
int for_each_item(Work work, const void *state, int64_t items, size_t scratch_bytes, int64_t threads, double operations);

#endif

/* Items of work, spread over threads that nothing outlives the call. */
#ifndef PARGO_PARALLEL_H
#define PARGO_PARALLEL_H

#include <stddef.h>
#include <stdint.h>

/* `scratch` is 64-byte aligned and of the thread's own */
typedef void (*Work)(const void *state, int64_t item, char *scratch);

/* Every item once, in any order, on up to `threads` threads; on the caller's alone where the operations are few.
   0, or 1 where there is no memory for scratch. */
int for_each_item(Work work, const void *state, int64_t items, size_t scratch_bytes, int64_t threads, double operations);

#endif

/* What whoever loads the library asks first. */
#include "call.h"

int64_t pargo_call_bytes(void) { return sizeof(Call); }

int64_t pargo_dtypes(void) {
    int64_t dtypes = 1 << FLOAT32 | 1 << BFLOAT16;
#ifdef __FLT16_MAX__
    dtypes |= 1 << FLOAT16;
#endif
    return dtypes;
}

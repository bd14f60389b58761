#include "npk.h"

#include <stdlib.h>

enum { NPK_ALIGN = 64 };

float *npk_alloc_floats(int64_t count) {
    int64_t bytes;
    if (count < 0 || __builtin_mul_overflow(count, (int64_t)sizeof(float), &bytes)
        || __builtin_add_overflow(bytes, (int64_t)NPK_ALIGN, &bytes) || (uint64_t)bytes > SIZE_MAX)
        return NULL;
    /* aligned_alloc wants a multiple of the alignment; the spare line keeps the size above zero. */
    return aligned_alloc(NPK_ALIGN, (size_t)bytes / NPK_ALIGN * NPK_ALIGN);
}

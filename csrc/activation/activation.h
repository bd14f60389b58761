/* Functions of single elements. driver.c splits the work; an instruction set contributes one table. */
#ifndef NPK_ACTIVATION_H
#define NPK_ACTIVATION_H

#include "../common/npk.h"
#include "api.h"

enum { ACTIVATIONS = NPK_SWIGLU + 1, FORMATS = 4, STREAMED_FP32 = 3 };

/* out[0 .. count) of contiguous operands. */
typedef void (*activation_run)(int64_t count, const void *x, const void *y, void *out);

/* By function and number format; the last format is binary32 with stores past the caches. */
typedef activation_run activation_table[ACTIVATIONS][FORMATS];

/* NULL when the build or the CPU lacks the instruction set. */
const activation_table *activation_generic(void);
const activation_table *activation_avx2(void);
const activation_table *activation_avx512(void);

#endif

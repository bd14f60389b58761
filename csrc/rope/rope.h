/* Rotary position embedding. driver.c splits the tokens; an instruction set contributes one table. */
#ifndef NPK_ROPE_H
#define NPK_ROPE_H

#include "../common/npk.h"
#include "api.h"

/* One token: `heads` heads of `dim` elements. */
typedef void (*rope_run)(int64_t heads, int64_t dim, int64_t half, const float *x, const float *cosines,
                         const float *sines, float *out);

enum { HALVES, INTERLEAVED, STREAMED_HALVES, LAYOUTS };
typedef rope_run rope_table[LAYOUTS];

/* NULL when the build or the CPU lacks the instruction set. */
const rope_table *rope_generic(void);
const rope_table *rope_avx2(void);
const rope_table *rope_avx512(void);

#endif

/* What Python calls to measure this machine: loops whose work is known and that nothing but the machine limits. */
#ifndef NPK_HOST_API_H
#define NPK_HOST_API_H

#include <stdint.h>

/* Loops that live in registers. An operation is one multiplication or one addition of an element, except where said. */
enum {
    NPK_HOST_FMA = 0,       /* float32 multiply-adds in independent chains */
    NPK_HOST_FMA_CHAIN = 1, /* the same in one chain: its latency */
    NPK_HOST_ADD = 2,       /* float32 additions */
    NPK_HOST_RSQRT = 3,     /* 1 / sqrt of float32, one operation an element */
    NPK_HOST_FP16 = 4,      /* a multiply-add that first widens one factor from binary16 */
    NPK_HOST_BF16 = 5,      /* the same from bfloat16 */
    NPK_HOST_DOT16 = 6,     /* int32 += int16 * int16 */
    NPK_HOST_DOT8 = 7,      /* int32 += uint8 * int8 */
    NPK_HOST_KINDS = 8,
};

/* Loops over memory. */
enum {
    NPK_HOST_READ = 0,
    NPK_HOST_WRITE = 1,
    NPK_HOST_COPY = 2,
    NPK_HOST_COPY_PAST = 3, /* with stores that pass by the caches */
    NPK_HOST_STREAMS = 4,
};

/* Runs `steps` steps of a loop by the instruction set `isa`; `operations` is how many that were.
 * NPK_EUNSUPPORTED when the instruction set has no such instruction, or the CPU lacks it. */
int npk_host_compute(int isa, int kind, int64_t steps, double *operations);

/* `passes` times over `bytes` bytes, a multiple of 512, from `source` to `target`, both aligned to 64 bytes; the one
 * that the loop does not use may be NULL. */
int npk_host_stream(int isa, int kind, int64_t bytes, int64_t passes, const void *source, void *target);

/* `steps` integer additions that wait for each other, one a clock cycle. */
int npk_host_cycles(int64_t steps);

#endif

/* Loops that measure the machine; see api.h. An instruction set contributes one table. */
#ifndef NPK_HOST_H
#define NPK_HOST_H

#include "../common/npk.h"
#include "api.h"

/* Keeps the compiler from knowing what memory holds. */
#define HOST_FORGET() __asm__ volatile("" ::: "memory")

/* Runs `steps` steps, leaves something that depends on all of them in `sink`; returns operations per step. */
typedef double (*host_compute)(int64_t steps, float *sink);

/* One pass over `bytes` bytes. */
typedef void (*host_stream)(int64_t bytes, const char *source, char *target);

typedef struct {
    host_compute compute[NPK_HOST_KINDS]; /* NULL: the instruction set has no such instruction */
    host_stream stream[NPK_HOST_STREAMS];
} host_table;

/* NULL when the build or the CPU lacks the instruction set. */
const host_table *host_generic(void);
const host_table *host_avx2(void);
const host_table *host_avx512(void);

/* u8 x s8 products of AVX-512 VNNI; NULL without it. */
host_compute host_vnni(void);

#endif

/* Vectors of four in the compiler's own notation: what a portable build makes of this CPU. */
#include "host.h"

#include <math.h>
#include <string.h>

enum { LANES = 4 };
typedef float V __attribute__((vector_size(16)));
typedef int32_t I __attribute__((vector_size(16)));
typedef uint32_t U __attribute__((vector_size(16))); /* sums wrap around */
#define TARGET
#define v_set1(x) ((V){(x), (x), (x), (x)})
#define v_add(a, b) ((a) + (b))
#define v_fma(a, b, c) ((a) * (b) + (c))
#define v_first(v) ((v)[0])
#define i_set1(x) ((I){(x), (x), (x), (x)})
#define i_add(a, b) ((I)((U)(a) + (U)(b)))
#define i_first(v) ((v)[0])
#define v_fence() ((void)0)
#define i_store_past i_store

static inline V v_rsqrt(V x) {
    return (V){1.0f / sqrtf(x[0]), 1.0f / sqrtf(x[1]), 1.0f / sqrtf(x[2]), 1.0f / sqrtf(x[3])};
}

static inline I i_load(const char *p) {
    I v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void i_store(char *p, I v) { memcpy(p, &v, sizeof v); }

#include "template.h"

/* C has no stores past the caches and no sums of products. */
static const host_table TABLE = {{fma_chains, fma_one_chain, additions, reciprocal_roots, NULL, NULL, NULL, NULL},
                                 {read_once, write_once, copy_once, NULL}};

const host_table *host_generic(void) {
    (void)copy_past;
    return &TABLE;
}

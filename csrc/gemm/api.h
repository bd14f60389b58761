/* What Python calls; see gemm.h. */
#ifndef NPK_GEMM_API_H
#define NPK_GEMM_API_H

#include <stdint.h>

/* C = A B by the instruction set `isa` on up to `threads` threads; same bits for any thread count. */
int npk_sgemm(int isa, int64_t m, int64_t n, int64_t k, const float *a, int64_t rsa, int64_t csa,
              const float *b, int64_t rsb, int64_t csb, float *c, int64_t rsc, int64_t csc, int threads);

#endif

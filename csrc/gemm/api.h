/* What Python calls; see gemm.h. Matrices have their strides in elements, which may be negative or zero. */
#ifndef NPK_GEMM_API_H
#define NPK_GEMM_API_H

#include <stdint.h>

/* Number formats of matrix elements. */
enum { NPK_GEMM_F32 = 0, NPK_GEMM_FP16 = 1, NPK_GEMM_BF16 = 2 };

/* C = A B by the instruction set `isa` on up to `threads` threads; same bits for any thread count.
 * NPK_EALIAS when the addresses of a dense C lie among those of A or B. */
int npk_sgemm(int isa, int64_t m, int64_t n, int64_t k, const float *a, int64_t rsa, int64_t csa,
              const float *b, int64_t rsb, int64_t csb, float *c, int64_t rsc, int64_t csc, int threads);

/* The same for `batch` products bsa, bsb, bsc elements apart, in any formats; sums are binary32, and
 * are rounded once, to c_type. A C of 16 bits must have csc = 1. */
int npk_gemm(int isa, int64_t batch, int64_t m, int64_t n, int64_t k, int a_type, const void *a, int64_t bsa,
             int64_t rsa, int64_t csa, int b_type, const void *b, int64_t bsb, int64_t rsb, int64_t csb, int c_type,
             void *c, int64_t bsc, int64_t rsc, int64_t csc, int threads);

/* Rows offsets[e] to offsets[e + 1] of c (rows, n) = those of a (rows, k) times matrix e of b (groups, k, n), by
 * npk_sgemm; a and c are C-contiguous, b has any strides. offsets (groups + 1) run from 0 to rows and never fall. */
int npk_grouped_gemm(int isa, int64_t groups, int64_t rows, int64_t n, int64_t k, const float *a, const float *b,
                     int64_t bsb, int64_t rsb, int64_t csb, const int64_t *offsets, float *c, int threads);

/* Floats that npk_gemm_pack writes for a (k, n) matrix; -1 when the arguments are bad or the size overflows. */
int64_t npk_gemm_packed_size(int isa, int64_t n, int64_t k);

/* Packs B for npk_gemm_packed with the same isa. */
int npk_gemm_pack(int isa, int64_t n, int64_t k, int b_type, const void *b, int64_t rsb, int64_t csb, float *packed);

/* C = A B with B as npk_gemm_pack leaves it. */
int npk_gemm_packed(int isa, int64_t m, int64_t n, int64_t k, int a_type, const void *a, int64_t rsa, int64_t csa,
                    const float *packed, int c_type, void *c, int64_t rsc, int64_t csc, int threads);

#endif

/* Layout and format changes in AVX2 and F16C, used by both x86 contexts; contracts in gemm.h. */
#ifndef NPK_GEMM_CONVERT_X86_H
#define NPK_GEMM_CONVERT_X86_H

#include <stdbool.h>
#include <stdint.h>

void gemm_transpose_avx2(int type, int width, int64_t len, const void *x, int64_t si, float *dst);
void gemm_copy_avx2(int width, int64_t rows, int64_t n, const float *x, int64_t rs, float *dst, int64_t step);
int64_t gemm_columns_avx2(int type, int rows, int64_t n, int64_t kc, const float *a, int64_t rsa, const void *b,
                          int64_t ldb, float *c, int64_t rsc, bool add);
void gemm_widen_avx2(int type, int64_t rows, int64_t n, const uint16_t *x, int64_t rs, float *dst, int64_t ld);
void gemm_narrow_avx2(int type, int64_t rows, int64_t n, const float *x, int64_t rs, uint16_t *dst, int64_t ld);

#endif

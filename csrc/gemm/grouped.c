/* Products of the rows of every group with the matrix of that group. */
#include "gemm.h"

int npk_grouped_gemm(int isa, int64_t groups, int64_t rows, int64_t n, int64_t k, const float *a, const float *b,
                     int64_t bsb, int64_t rsb, int64_t csb, const int64_t *offsets, float *c, int threads) {
    int64_t a_size, c_size, b_size;
    if (groups < 0 || rows < 0 || n < 0 || k < 0 || !offsets || offsets[0] != 0 || offsets[groups] != rows)
        return NPK_EINVAL;
    if (__builtin_mul_overflow(rows, k, &a_size) || __builtin_mul_overflow(rows, n, &c_size)
        || __builtin_mul_overflow(groups, bsb, &b_size))
        return NPK_EOVERFLOW;
    for (int64_t e = 0; e < groups; e++)
        if (offsets[e] > offsets[e + 1])
            return NPK_EINVAL;
    for (int64_t e = 0; e < groups; e++) {
        int64_t first = offsets[e], count = offsets[e + 1] - first;
        int status = count == 0 ? NPK_OK
                                : npk_sgemm(isa, count, n, k, a + first * k, k, 1, b + e * bsb, rsb, csb, c + first * n,
                                            n, 1, threads);
        if (status != NPK_OK)
            return status;
    }
    return NPK_OK;
}

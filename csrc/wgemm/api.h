/* What Python calls; see wgemm.h. */
#ifndef NPK_WGEMM_API_H
#define NPK_WGEMM_API_H

#include <stdint.h>

/* y (m, n) = x (m, k) W + bias by the instruction set `isa`, W[p, j] = scale (q[p, j] - zero), one scale and zero
 * for `group` k of a column (a multiple of 8). x, y and bias are C-contiguous; zero and bias may be NULL.
 * Panels of 16 columns; in each, `bits` 8: blocks of 4 k x 16 columns x 4 bytes, 4: blocks of 8 k, 16 columns x 4
 * bytes whose low nibbles are k 0 to 3 and high nibbles k 4 to 7, two's complement; k is padded with zeros to a
 * multiple of 8. scale and zero: (panels, groups, 16). */
int npk_wgemm(int isa, int bits, int64_t m, int64_t n, int64_t k, int64_t group, const float *x,
              const uint8_t *packed, const float *scale, const float *zero, const float *bias, float *y,
              int threads);

/* The same for 4-bit weights with x rounded to 8 bits, one scale for `group` k of a row; `group` must be a multiple
 * of 32. NPK_AVX512 stands for AVX-512 VNNI. */
int npk_wgemm_int8(int isa, int64_t m, int64_t n, int64_t k, int64_t group, const float *x, const uint8_t *packed,
                   const float *scale, const float *zero, const float *bias, float *y, int threads);

/* Of npk_block_gemm: formats NPK_FMT_ of the codes, how scales are stored (NPK_SCALE_), k of a block, columns of b that
 * share a scale, and the strides of the scales in elements. */
typedef struct {
    int a_format, b_format, scale_kind;
    int64_t block, columns, a_down, a_across, b_down, b_across;
    float alpha;
} npk_block_rule;

/* y (m, n) = alpha times the sum over blocks of k of (a b over the block) * (a_scale * b_scale): a (m, k) and b (k, n)
 * are C-contiguous codes, a_scale (m, blocks), b_scale (blocks, ceil(n / columns)). Blocks are summed in chunks of at
 * most 128 k. */
int npk_block_gemm(int isa, const npk_block_rule *rule, int64_t m, int64_t n, int64_t k, const uint8_t *a,
                   const uint8_t *b, const void *a_scale, const void *b_scale, float *y, int threads);

#endif

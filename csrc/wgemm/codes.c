/* The block-scaled product of codes, with scales as they are stored: decoded here, then npk_block_gemm. */
#include "../formats/formats.h"
#include "wgemm.h"

#include <stdlib.h>
#include <string.h>

/* Codes of one byte as floats; refuses those beyond the format's bits. */
static int decode_codes(int isa, int format, int bits, int64_t n, const uint8_t *codes, float *x) {
    int used = 0;
    for (int64_t i = 0; i < n; i++)
        used |= codes[i];
    return used >> bits ? NPK_EINVAL : npk_decode(isa, format, n, codes, x, 1);
}

/* Scales (rows, cols) of a matrix whose elements lie `down` and `across` apart, each `repeat` times along its row. */
static int take_scales(int isa, int kind, int64_t rows, int64_t cols, int64_t repeat, const void *stored, int64_t down,
                       int64_t across, float *scale) {
    int64_t size = kind == NPK_SCALE_FLOAT ? 4 : 1;
    char *gathered = malloc((size_t)(rows * cols * size));
    if (!gathered)
        return NPK_ENOMEM;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            const char *from = (const char *)stored + (i * down + j / repeat * across) * size;
            memcpy(gathered + (i * cols + j) * size, from, (size_t)size);
        }
    int status = npk_decode_scales(isa, kind, 1.0f, rows * cols, gathered, scale);
    free(gathered);
    return status;
}

int npk_block_gemm_codes(int isa, const npk_block_rule *r, int64_t m, int64_t n, int64_t k, const uint8_t *a,
                         const uint8_t *b, const void *a_scale, const void *b_scale, float *y, int threads) {
    int64_t limit = (int64_t)1 << 30; /* keeps every product below in 63 bits */
    if (!r || m < 1 || n < 1 || k < 1 || m > limit || n > limit || k > limit || r->block < 1 || r->columns < 1 || !a
        || !b || !a_scale || !b_scale || !y || r->a_bits < 1 || r->a_bits > 8 || r->b_bits < 1 || r->b_bits > 8
        || r->scale_kind < NPK_SCALE_FLOAT || r->scale_kind > NPK_SCALE_FP8)
        return NPK_EINVAL;
    int64_t blocks = npk_ceil_div(k, r->block), left = m * k, right = k * n, rows = m * blocks, cols = blocks * n, all;
    if (__builtin_add_overflow(left + rows, right, &all) || __builtin_add_overflow(all, cols, &all)
        || all > INT64_MAX / 8)
        return NPK_EOVERFLOW;
    float *x = malloc((size_t)all * sizeof *x);
    if (!x)
        return NPK_ENOMEM;
    float *w = x + left, *x_scale = w + right, *w_scale = x_scale + rows;
    int status = decode_codes(isa, r->a_format, r->a_bits, left, a, x);
    if (status == NPK_OK)
        status = decode_codes(isa, r->b_format, r->b_bits, right, b, w);
    if (status == NPK_OK)
        status = take_scales(isa, r->scale_kind, m, blocks, 1, a_scale, r->a_down, r->a_across, x_scale);
    if (status == NPK_OK)
        status = take_scales(isa, r->scale_kind, blocks, n, r->columns, b_scale, r->b_down, r->b_across, w_scale);
    if (status == NPK_OK)
        status = npk_block_gemm(isa, m, n, k, r->block, x, w, x_scale, w_scale, y, threads);
    for (int64_t i = 0; status == NPK_OK && r->alpha != 1.0f && i < m * n; i++)
        y[i] *= r->alpha;
    free(x);
    return status;
}

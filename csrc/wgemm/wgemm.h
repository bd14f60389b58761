/* Products of float activations by 4- or 8-bit weights that are decoded on the way.
 *
 * In float32, few rows stream the packed weights through registers: every chunk of at most WGEMM_CHUNK k within a group
 * is summed from zero, and y = y + sum * scale. More rows are an ordinary matrix product, which decodes weights as it
 * packs them.
 * In int8: x is rounded to 8 bits by rows and groups; sums of a group are exact integers. */
#ifndef NPK_WGEMM_H
#define NPK_WGEMM_H

#include "../common/npk.h"
#include "api.h"

enum { WGEMM_NR = 16, WGEMM_CHUNK = 128, WGEMM_STREAM_ROWS = 3, WGEMM_MAX_MR = 14 };

/* Part of one panel that shares scale and zero. */
typedef struct {
    int64_t len;          /* steps of k */
    const uint8_t *codes; /* packed, from the chunk's first k */
    const float *scale;   /* 16 */
    const float *zero;    /* 16, or NULL */
} wgemm_chunk;

/* y (r, 16), rows ldy apart, += (x W) * (scale * row_scale) for r rows, whose row_scale is ldr apart, and W (len, 16) in
 * float. */
typedef void (*wgemm_tile)(int64_t len, const float *x, int64_t ldx, const float *w, const float *scale,
                           const float *row_scale, int64_t ldr, float *y, int64_t ldy);

typedef struct {
    int mr;
    /* (codes - zero) * scale of a chunk, each operation rounded once, (len, 16) */
    void (*decode)(int bits, const wgemm_chunk *c, float *dst);
    const wgemm_tile *tile; /* tile[r - 1] */
    /* the same from codes, one row */
    void (*stream)(int bits, const wgemm_chunk *c, const float *x, float *y);
} wgemm_ctx;

const wgemm_ctx *wgemm_ctx_generic(void);
const wgemm_ctx *wgemm_ctx_avx2(void);
const wgemm_ctx *wgemm_ctx_avx512(void);
const wgemm_ctx *wgemm_ctx_of(int isa);

/* Rounded rows of x: codes (r, k padded to 8 with zeros), and for each group of k its scale and sum of codes. An offset
 * is -8 times the sum over a block of 32 k, of k = 0, 1 (mod 4) in its lower and k = 2, 3 in its upper 16 bits: what the
 * 8 that is added to every nibble takes back. */
typedef struct {
    const int8_t *codes;
    int64_t ld, groups, blocks; /* from one row to the next */
    const float *scale;         /* (r, groups) */
    const int32_t *sums;        /* (r, groups) */
    const int32_t *offsets;     /* (r, blocks) */
} wgemm_rows;

/* y (r, 16) += sum over groups of (codes - zero) . x * (scale * x.scale) for r rows, one panel, k steps from a group's
 * first on */
typedef void (*wgemm_int8_tile)(int64_t k, int64_t group, const wgemm_rows *x, const uint8_t *codes,
                                const float *scale, const float *zero, float *y, int64_t ldy);

typedef struct {
    int mr;
    const wgemm_int8_tile *tile; /* tile[r - 1] */
} wgemm_int8_ctx;

const wgemm_int8_ctx *wgemm_int8_ctx_generic(void);
const wgemm_int8_ctx *wgemm_int8_ctx_avx2(void);
const wgemm_int8_ctx *wgemm_int8_ctx_vnni(void);

#endif

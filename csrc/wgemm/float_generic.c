/* The portable kernels, and the reference the vector ones are read against. */
#include "wgemm.h"

enum { MR = 4 };

NPK_INLINE int code_of(int bits, const uint8_t *block, int column, int p) {
    if (bits == 8)
        return (int8_t)block[4 * column + p];
    int nibble = block[4 * column + p % 4] >> (p < 4 ? 0 : 4) & 15;
    return nibble < 8 ? nibble : nibble - 16;
}

static void decode(int bits, const wgemm_chunk *c, float *dst) {
    const int steps = bits == 8 ? 4 : 8;
    const uint8_t *block = c->codes;
    for (int64_t p = 0; p < c->len; p += steps, block += 64)
        for (int t = 0; t < steps; t++)
            for (int j = 0; j < WGEMM_NR; j++)
                dst[(p + t) * WGEMM_NR + j] = ((float)code_of(bits, block, j, t) - (c->zero ? c->zero[j] : 0.0f))
                                              * c->scale[j];
}

NPK_INLINE void multiply(const int rows, int64_t len, const float *x, int64_t ldx, const float *w,
                         const float *scale, const float *row_scale, int64_t ldr, float *y, int64_t ldy) {
    float sum[MR][WGEMM_NR] = {{0}};
    for (int64_t p = 0; p < len; p++, w += WGEMM_NR)
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < WGEMM_NR; j++)
                sum[i][j] += x[i * ldx + p] * w[j];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < WGEMM_NR; j++)
            y[i * ldy + j] += sum[i][j] * (scale[j] * row_scale[i * ldr]);
}

static void stream(int bits, const wgemm_chunk *c, const float *x, float *y) {
    static const float ones[WGEMM_NR] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    float w[WGEMM_CHUNK * WGEMM_NR];
    decode(bits, &(wgemm_chunk){c->len, c->codes, ones, c->zero}, w);
    multiply(1, c->len, x, 0, w, c->scale, ones, 0, y, 0);
}

#define ROWS(r)                                                                                                  \
    static void rows##r(int64_t len, const float *x, int64_t ldx, const float *w, const float *scale,            \
                       const float *row_scale, int64_t ldr, float *y, int64_t ldy) {                             \
        multiply(r, len, x, ldx, w, scale, row_scale, ldr, y, ldy);                                              \
    }
ROWS(1) ROWS(2) ROWS(3) ROWS(4)

static const wgemm_tile TILE[MR] = {rows1, rows2, rows3, rows4};
static const wgemm_ctx CTX = {MR, decode, TILE, stream};

const wgemm_ctx *wgemm_ctx_generic(void) { return &CTX; }

/* Portable int8 kernel. All variants compute the same integers and the same two float operations a group. */
#include "wgemm.h"

enum { MR = 4 };

NPK_INLINE void multiply(const int rows, int64_t k, int64_t group, const wgemm_rows *x, const uint8_t *codes,
                         const float *scale, const float *zero, float *y, int64_t ldy) {
    for (int64_t g = 0, first = 0; first < k; g++, first += group) {
        int64_t len = npk_min(group, k - first);
        for (int i = 0; i < rows; i++) {
            int32_t sum[WGEMM_NR] = {0};
            for (int64_t p = 0; p < len; p += 8)
                for (int j = 0; j < WGEMM_NR; j++)
                    for (int t = 0; t < 4; t++) {
                        const int8_t *xp = x->codes + i * x->ld + first + p;
                        int both = codes[(first + p) * 8 + 4 * j + t] ^ 0x88;
                        sum[j] += (both & 15) * xp[t] + (both >> 4) * xp[t + 4];
                    }
            for (int j = 0; j < WGEMM_NR; j++) {
                int32_t offset = 8 + (zero ? (int32_t)zero[g * WGEMM_NR + j] : 0);
                float v = (float)(sum[j] - offset * x->sums[i * x->groups + g]);
                y[i * ldy + j] += v * (scale[g * WGEMM_NR + j] * x->scale[i * x->groups + g]);
            }
        }
    }
}

#define ROWS(r)                                                                                                  \
    static void rows##r(int64_t k, int64_t group, const wgemm_rows *x, const uint8_t *codes, const float *scale, \
                        const float *zero, float *y, int64_t ldy) {                                              \
        multiply(r, k, group, x, codes, scale, zero, y, ldy);                                                    \
    }
ROWS(1) ROWS(2) ROWS(3) ROWS(4)

static const wgemm_int8_tile TILE[MR] = {rows1, rows2, rows3, rows4};
static const wgemm_int8_ctx CTX = {MR, TILE};

const wgemm_int8_ctx *wgemm_int8_ctx_generic(void) { return &CTX; }

/* AVX-512 VNNI: 14 x 32, i.e. 28 accumulators, 2 vectors of B and a broadcast in 32 registers.
 *
 * vpdpbusd multiplies u8 by s8 and adds four products to s32 without saturation. A signed A is moved to u8 by
 * adding 128; its zero point moves with it, so that the column sums of B take it out again. */
#include "qgemm.h"

#if defined(__x86_64__)
#ifndef NPK_SIMD_VNNI /* the tests put plain C here, to run this tile on CPUs that lack VNNI */
#define NPK_SIMD_VNNI "simd_vnni.h"
#endif
#include NPK_SIMD_VNNI
#include "finish.h"

enum { MR = 14, NV = 2, STRIDE = 1024 + QGEMM_A_EXTRA };

TARGET static void convert(int64_t rows, int64_t k, const uint8_t *a, int64_t lda, bool is_signed, int32_t zero,
                           void *dst, int64_t stride) {
    (void)zero;
    const uint8_t flip = is_signed ? 0x80 : 0;
    for (int64_t i = 0; i < rows; i++, a += lda) {
        uint8_t *restrict to = (uint8_t *)dst + i * stride;
        for (int64_t p = 0; p < k; p++)
            to[p] = a[p] ^ flip;
        for (int64_t p = k; p % 4 != 0; p++)
            to[p] = 0;
    }
}

TARGET NPK_INLINE void multiply(const int rows, const int nv, int64_t k4, const void *a, const int8_t *b,
                                int64_t next, int32_t *acc, int64_t ldacc, bool accumulate) {
    V sum[MR][NV];
    NPK_UNROLL
    for (int i = 0; i < rows; i++) {
        NPK_UNROLL
        for (int j = 0; j < nv; j++)
            sum[i][j] = v_zero();
    }
    const uint8_t *x = a;
    for (int64_t p = 0; p < k4; p++, x += 4, b += 64) {
        V bv[NV];
        NPK_UNROLL
        for (int j = 0; j < nv; j++)
            bv[j] = v_load(b + j * next);
        NPK_UNROLL
        for (int i = 0; i < rows; i++) {
            V quad = v_quad(x + i * STRIDE);
            NPK_UNROLL
            for (int j = 0; j < nv; j++)
                sum[i][j] = v_dot(sum[i][j], quad, bv[j]);
        }
    }
    NPK_UNROLL
    for (int i = 0; i < rows; i++) {
        NPK_UNROLL
        for (int j = 0; j < nv; j++) {
            int32_t *dst = acc + i * ldacc + j * QGEMM_NR;
            v_store(dst, accumulate ? v_add(v_load(dst), sum[i][j]) : sum[i][j]);
        }
    }
}

#define ROWS(r)                                                                                                  \
    TARGET static void wide##r(int64_t k4, const void *a, int64_t lda, const int8_t *b, int64_t next,            \
                               int32_t *acc, int64_t ldacc, bool accumulate) {                                   \
        (void)lda;                                                                                               \
        multiply(r, 2, k4, a, b, next, acc, ldacc, accumulate);                                                  \
    }                                                                                                            \
    TARGET static void single##r(int64_t k4, const void *a, int64_t lda, const int8_t *b, int64_t next,          \
                                 int32_t *acc, int64_t ldacc, bool accumulate) {                                 \
        (void)lda;                                                                                               \
        multiply(r, 1, k4, a, b, next, acc, ldacc, accumulate);                                                  \
    }
ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7)
ROWS(8) ROWS(9) ROWS(10) ROWS(11) ROWS(12) ROWS(13) ROWS(14)

static const qgemm_tile WIDE[MR] = {wide1, wide2, wide3,  wide4,  wide5,  wide6,  wide7,
                                    wide8, wide9, wide10, wide11, wide12, wide13, wide14};
static const qgemm_tile SINGLE[MR] = {single1, single2, single3,  single4,  single5,  single6,  single7,
                                      single8, single9, single10, single11, single12, single13, single14};
static const qgemm_ctx CTX = {
    .any = {.a_size = 1, .kc = 1024, .stride = STRIDE, .convert = convert, .mr = MR, .tile = WIDE, .narrow = SINGLE},
    .panels = NV, .narrow = QGEMM_NR, .a_flip = 128, .mc = 196, .nc = 512, .sum_row = sum_row, .finish = finish,
};

const qgemm_ctx *qgemm_ctx_vnni(void) {
    return npk_cpu_supports("avx512bw") && npk_cpu_supports("avx512vl") && npk_cpu_supports("avx512_vnni") ? &CTX
                                                                                                           : NULL;
}
#else
const qgemm_ctx *qgemm_ctx_vnni(void) { return NULL; }
#endif

/* AVX-512 VNNI: 12 x 16. */
#include "wgemm.h"

#if defined(__x86_64__)
#ifndef NPK_WGEMM_VNNI /* the tests put plain C here, to run this tile on CPUs that lack VNNI */
#define NPK_WGEMM_VNNI "simd_vnni.h"
#endif
#include NPK_WGEMM_VNNI

enum { MR = 12 };
#include "int8_simd.h"

ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7) ROWS(8) ROWS(9) ROWS(10) ROWS(11) ROWS(12)

static const wgemm_int8_tile TILE[MR] = {rows1, rows2, rows3, rows4,  rows5,  rows6,
                                   rows7, rows8, rows9, rows10, rows11, rows12};
static const wgemm_int8_ctx CTX = {MR, TILE};

const wgemm_int8_ctx *wgemm_int8_ctx_vnni(void) {
    return npk_cpu_supports("avx512bw") && npk_cpu_supports("avx512vl") && npk_cpu_supports("avx512_vnni") ? &CTX
                                                                                                           : NULL;
}
#else
const wgemm_int8_ctx *wgemm_int8_ctx_vnni(void) { return NULL; }
#endif

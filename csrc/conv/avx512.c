#include "conv.h"

#if defined(__x86_64__)
#ifndef NPK_VMATH_AVX512 /* the tests put plain C here, to run this code on CPUs that lack AVX-512 */
#define NPK_VMATH_AVX512 "../common/vmath_avx512.h"
#endif
#include NPK_VMATH_AVX512
#include "depthwise_row.h"

/* Twelve rows, for each has a pointer in a general register. */
enum { MR = 12 };
#include "tile.h"

TILE_ROWS(1) TILE_ROWS(2) TILE_ROWS(3) TILE_ROWS(4) TILE_ROWS(5) TILE_ROWS(6)
TILE_ROWS(7) TILE_ROWS(8) TILE_ROWS(9) TILE_ROWS(10) TILE_ROWS(11) TILE_ROWS(12)

static const conv_tile TILE[MR] = {tile1, tile2, tile3, tile4, tile5, tile6, tile7, tile8, tile9, tile10, tile11, tile12};
static const conv_kernels KERNELS = {depthwise, MR, NR, TILE};

/* Every CPU with AVX-512 has F16C, which vmath_avx512.h uses. */
const conv_kernels *conv_avx512(void) {
    return npk_cpu_supports("avx512f") && npk_cpu_supports("f16c") ? &KERNELS : NULL;
}
#else
const conv_kernels *conv_avx512(void) { return NULL; }
#endif

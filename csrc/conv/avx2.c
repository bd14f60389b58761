#include "conv.h"

#if defined(__x86_64__)
#include "../common/vmath_avx2.h"
#include "depthwise_row.h"

enum { MR = 6 };
#include "tile.h"

TILE_ROWS(1) TILE_ROWS(2) TILE_ROWS(3) TILE_ROWS(4) TILE_ROWS(5) TILE_ROWS(6)

static const conv_tile TILE[MR] = {tile1, tile2, tile3, tile4, tile5, tile6};
static const conv_kernels KERNELS = {depthwise, MR, NR, TILE};

const conv_kernels *conv_avx2(void) {
    return npk_cpu_supports("avx2") && npk_cpu_supports("fma") && npk_cpu_supports("f16c") ? &KERNELS : NULL;
}
#else
const conv_kernels *conv_avx2(void) { return NULL; }
#endif

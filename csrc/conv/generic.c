#include "conv.h"

#include "../common/vmath_generic.h"
#include "depthwise_row.h"

enum { MR = 4 };
#include "tile.h"

TILE_ROWS(1) TILE_ROWS(2) TILE_ROWS(3) TILE_ROWS(4)

static const conv_tile TILE[MR] = {tile1, tile2, tile3, tile4};
static const conv_kernels KERNELS = {depthwise, MR, NR, TILE};

const conv_kernels *conv_generic(void) { return &KERNELS; }

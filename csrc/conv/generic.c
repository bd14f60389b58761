#include "conv.h"

#include "../common/vmath_generic.h"
#include "depthwise_row.h"

static const conv_kernels KERNELS = {depthwise};

const conv_kernels *conv_generic(void) { return &KERNELS; }

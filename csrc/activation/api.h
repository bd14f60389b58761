/* What Python calls; see activation.h. */
#ifndef NPK_ACTIVATION_API_H
#define NPK_ACTIVATION_API_H

#include <stdint.h>

enum {
    NPK_EXP = 0,
    NPK_TANH = 1,
    NPK_SIGMOID = 2,
    NPK_SILU = 3,
    NPK_GELU = 4,
    NPK_GELU_TANH = 5,
    NPK_SWIGLU = 6, /* silu(x) y, the only one that reads y */
};

/* out = function(x) for `rows` rows of `cols` contiguous elements, `type` an NPK_ number format. Strides count
 * elements; out's rows follow each other. out may be x (or y) itself. Same bits for any thread count. */
int npk_activation(int isa, int function, int type, int64_t rows, int64_t cols, const void *x, int64_t stride_x,
                   const void *y, int64_t stride_y, void *out, int threads);

#endif

/* The loops, once for all instruction sets; the including file has included a vmath header. */
#include "../common/vtypes.h"

TARGET NPK_INLINE V apply(const int function, V x, V y) {
    switch (function) {
    case NPK_EXP: return v_exp(x);
    case NPK_TANH: return v_tanh(x);
    case NPK_SIGMOID: return v_sigmoid(x);
    case NPK_SILU: return v_silu(x);
    case NPK_GELU: return v_gelu(x);
    case NPK_GELU_TANH: return v_gelu_tanh(x);
    default: return v_mul(v_silu(x), y);
    }
}

TARGET NPK_INLINE void loop(const int function, const int type, const bool stream, int64_t count, const void *x,
                            const void *y, void *out) {
    const V zero = v_set1(0.0f);
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        V second = function == NPK_SWIGLU ? v_load_as(type, y, i) : zero;
        v_put(type, stream, out, i, apply(function, v_load_as(type, x, i), second));
    }
    if (i < count) {
        int64_t rest = count - i;
        V second = function == NPK_SWIGLU ? v_load_part_as(type, y, i, rest, zero) : zero;
        v_store_part_as(type, out, i, rest, apply(function, v_load_part_as(type, x, i, rest, zero), second));
    }
    if (stream)
        v_fence();
}

#define RUN(name, function, format, type, stream)                                                               \
    TARGET static void name##_##format(int64_t count, const void *x, const void *y, void *out) {                \
        loop(function, type, stream, count, x, y, out);                                                         \
    }
#define FUNCTION(name, function)                                                                                \
    RUN(name, function, fp32, NPK_FP32, false)                                                                  \
    RUN(name, function, bf16, NPK_BF16, false)                                                                  \
    RUN(name, function, fp16, NPK_FP16, false)                                                                  \
    RUN(name, function, streamed, NPK_FP32, true)
FUNCTION(exp_, NPK_EXP)
FUNCTION(tanh_, NPK_TANH)
FUNCTION(sigmoid, NPK_SIGMOID)
FUNCTION(silu, NPK_SILU)
FUNCTION(gelu, NPK_GELU)
FUNCTION(gelu_tanh, NPK_GELU_TANH)
FUNCTION(swiglu, NPK_SWIGLU)

#define ENTRY(name) {name##_fp32, name##_bf16, name##_fp16, name##_streamed}
static const activation_table TABLE = {ENTRY(exp_),  ENTRY(tanh_),      ENTRY(sigmoid), ENTRY(silu),
                                       ENTRY(gelu), ENTRY(gelu_tanh), ENTRY(swiglu)};

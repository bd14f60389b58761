/* The loops, once for all instruction sets; the including file has included a vmath header. */
#include "../common/vtypes.h"

/* The function of vmath.h of that number; swiglu begins as silu. */
#define CHOOSE(function, prefix, suffix, ...)                                                                   \
    switch (function) {                                                                                         \
    case NPK_EXP: return prefix##exp##suffix __VA_ARGS__;                                                       \
    case NPK_TANH: return prefix##tanh##suffix __VA_ARGS__;                                                     \
    case NPK_SIGMOID: return prefix##sigmoid##suffix __VA_ARGS__;                                               \
    case NPK_GELU: return prefix##gelu##suffix __VA_ARGS__;                                                     \
    case NPK_GELU_TANH: return prefix##gelu_tanh##suffix __VA_ARGS__;                                           \
    default: return prefix##silu##suffix __VA_ARGS__;                                                           \
    }
TARGET NPK_INLINE V apply(const int function, V x) { CHOOSE(function, v_, , (x)) }
TARGET NPK_INLINE v_begun begin(const int function, V x) { CHOOSE(function, v_, _begin, (x)) }
TARGET NPK_INLINE V end(const int function, V x, v_begun b) { CHOOSE(function, v_, _end, (x, b)) }
NPK_INLINE float near_limit(const int function) { CHOOSE(function, V_NEAR_, , ) }

TARGET NPK_INLINE void put(const int function, const int type, const bool stream, const void *y, void *out, int64_t i,
                           V value) {
    v_put(type, stream, out, i, function == NPK_SWIGLU ? v_mul(value, v_load_as(type, y, i)) : value);
}

/* Vectors that go through the first half of a function before any goes through the second, see v_begun. */
enum { BLOCK = 16 };

TARGET NPK_INLINE void block(const int function, const int type, const bool stream, const void *x, const void *y,
                             void *out, int64_t i) {
    float r[BLOCK * LANES], t[BLOCK * LANES], q[BLOCK * LANES];
    V largest = v_set1(0.0f);
    for (int at = 0; at < BLOCK * LANES; at += LANES) {
        V v = v_load_as(type, x, i + at);
        v_begun b = begin(function, v);
        largest = v_largest_of(largest, v_abs(v));
        v_store(r + at, b.r);
        v_store(t + at, b.t);
        if (function == NPK_TANH || function == NPK_GELU)
            v_store(q + at, b.q);
    }
    if (!v_within(largest, near_limit(function))) {
        for (int at = 0; at < BLOCK * LANES; at += LANES)
            put(function, type, stream, y, out, i + at, apply(function, v_load_as(type, x, i + at)));
        return;
    }
    for (int at = 0; at < BLOCK * LANES; at += LANES) {
        v_begun b = {v_load(r + at), v_load(t + at), v_load(q + at)};
        put(function, type, stream, y, out, i + at, end(function, v_load_as(type, x, i + at), b));
    }
}

/* 0 < count < LANES elements. */
TARGET NPK_INLINE void part(const int function, const int type, const bool stream, const void *x, const void *y,
                            void *out, int64_t i, int64_t count) {
    const V zero = v_set1(0.0f);
    V value = apply(function, v_load_part_as(type, x, i, count, zero));
    if (function == NPK_SWIGLU)
        value = v_mul(value, v_load_part_as(type, y, i, count, zero));
    v_put_part(type, stream, out, i, count, value);
}

TARGET NPK_INLINE void loop(const int function, const int type, const bool stream, int64_t count, const void *x,
                            const void *y, void *out) {
    int64_t i = stream ? v_lead(out, count) : 0;
    if (i > 0)
        part(function, type, stream, x, y, out, 0, i);
    for (; i + BLOCK * LANES <= count; i += BLOCK * LANES)
        block(function, type, stream, x, y, out, i);
    for (; i + LANES <= count; i += LANES)
        put(function, type, stream, y, out, i, apply(function, v_load_as(type, x, i)));
    if (i < count)
        part(function, type, stream, x, y, out, i, count - i);
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

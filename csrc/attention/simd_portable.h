/* The vector operations of engine_simd.h in the vector extension of GCC and Clang, for any CPU.
 *
 * The including file sets NPK_LANES, and may set NPK_FMA to a scalar a b + c that rounds once. */
#include <string.h>

enum { LANES = NPK_LANES };
typedef float V __attribute__((vector_size(NPK_LANES * 4)));
typedef int32_t VI __attribute__((vector_size(NPK_LANES * 4)));
typedef uint32_t VU __attribute__((vector_size(NPK_LANES * 4)));
#define TARGET
#define v_hold(x) ((void)(x))
#define EACH_LANE for (int lane = 0; lane < LANES; lane++)

NPK_INLINE V v_zero(void) { return (V){0}; }
NPK_INLINE V v_set1(float x) {
    V v;
    EACH_LANE v[lane] = x;
    return v;
}
NPK_INLINE V v_load(const float *x) {
    V v;
    memcpy(&v, x, sizeof v);
    return v;
}
NPK_INLINE V v_load_part(const float *x, int count) {
    V v = {0};
    memcpy(&v, x, (size_t)count * sizeof *x);
    return v;
}
NPK_INLINE void v_store(float *x, V v) { memcpy(x, &v, sizeof v); }
NPK_INLINE V v_add(V a, V b) { return a + b; }
NPK_INLINE V v_sub(V a, V b) { return a - b; }
NPK_INLINE V v_mul(V a, V b) { return a * b; }
NPK_INLINE V v_div(V a, V b) { return a / b; }
#ifdef NPK_FMA
NPK_INLINE V v_fma(V a, V b, V c) {
    EACH_LANE c[lane] = NPK_FMA(a[lane], b[lane], c[lane]);
    return c;
}
#else
NPK_INLINE V v_fma(V a, V b, V c) { return a * b + c; }
#endif

NPK_INLINE V v_choose(VI mask, V yes, V no) { return (V)((mask & (VI)yes) | (~mask & (VI)no)); }
NPK_INLINE V v_max(V a, V b) { return v_choose(a > b, a, b); } /* b where either is NaN */
NPK_INLINE V v_keep_from(V x, V low, V y) { return (V)(~(x < low) & (VI)y); }
NPK_INLINE V v_replace_minus_inf(V x, V y) { return v_choose(x == v_set1(-INFINITY), y, x); }
NPK_INLINE V v_pow2(V n) { return (V)(((VU)n << 23) + 0x3f800000u); }

NPK_INLINE float v_sum(V a) {
    float sum = 0.0f;
    EACH_LANE sum += a[lane];
    return sum;
}
NPK_INLINE void v_sum4(V a, V b, V c, V d, float *dst) {
    dst[0] = v_sum(a);
    dst[1] = v_sum(b);
    dst[2] = v_sum(c);
    dst[3] = v_sum(d);
}
NPK_INLINE float v_largest(V a) {
    float largest = a[0];
    EACH_LANE largest = a[lane] > largest ? a[lane] : largest;
    return largest;
}

NPK_INLINE V v_from_int8(const int8_t *x) {
    V v;
    EACH_LANE v[lane] = x[lane];
    return v;
}
NPK_INLINE V v_from_bf16(const uint16_t *x) {
    VU v;
    EACH_LANE v[lane] = (uint32_t)x[lane] << 16;
    return (V)v;
}
/* Shifted into place, a small format's exponent lacks the difference of the biases; a product mends
 * that and subnormals alike. The exponent of infinity and NaN is set afterwards. */
NPK_INLINE V v_from_f16(const uint16_t *x) {
    VU code;
    EACH_LANE code[lane] = x[lane];
    V size = (V)((code & 0x7fff) << 13) * v_set1(0x1p112f);
    VU special = (VU)((code & 0x7c00) == 0x7c00) & 0x7f800000u;
    return (V)((VU)size | special | (code & 0x8000) << 16);
}
NPK_INLINE V v_from_e4m3(const uint8_t *x) {
    VU code;
    EACH_LANE code[lane] = x[lane];
    V size = (V)((code & 0x7f) << 20) * v_set1(0x1p120f);
    VU special = (VU)((code & 0x7f) == 0x7f) & 0x7fc00000u;
    return (V)((VU)size | special | (code & 0x80) << 24);
}
#undef EACH_LANE

/* The vector operations of vmath.h in the vector extension of GCC and Clang, for any architecture.
 *
 * NPK_VMATH_BYTES is the width of a vector. NPK_VMATH_FUSED makes v_fma round once, as the hardware of the
 * other instruction sets does: the tests run the AVX-512 sources that way on CPUs that lack it. */
#ifndef NPK_VMATH_GENERIC_H
#define NPK_VMATH_GENERIC_H

#include "npk.h"

#include <math.h>
#include <string.h>

#ifndef NPK_VMATH_BYTES
#define NPK_VMATH_BYTES 16
#endif

enum { LANES = NPK_VMATH_BYTES / 4 };
#ifdef NPK_VMATH_FUSED
enum { V_FUSED = 1 };
#else
enum { V_FUSED = 0 };
#endif
typedef float V __attribute__((vector_size(NPK_VMATH_BYTES)));
typedef int32_t M __attribute__((vector_size(NPK_VMATH_BYTES)));
typedef uint32_t U __attribute__((vector_size(NPK_VMATH_BYTES)));
#define TARGET

NPK_INLINE V v_load(const float *x) {
    V v;
    memcpy(&v, x, sizeof v);
    return v;
}
NPK_INLINE void v_store(float *x, V v) { memcpy(x, &v, sizeof v); }
NPK_INLINE V v_set1(float x) { return x - (V){0}; }
NPK_INLINE V v_add(V a, V b) { return a + b; }
NPK_INLINE V v_sub(V a, V b) { return a - b; }
NPK_INLINE V v_mul(V a, V b) { return a * b; }
NPK_INLINE V v_div(V a, V b) { return a / b; }
#ifdef NPK_VMATH_FUSED
NPK_INLINE V v_fma(V a, V b, V c) {
    for (int i = 0; i < LANES; i++)
        c[i] = fmaf(a[i], b[i], c[i]);
    return c;
}
NPK_INLINE V v_fnma(V a, V b, V c) { return v_fma(-a, b, c); }
#else
NPK_INLINE V v_fma(V a, V b, V c) { return a * b + c; }
NPK_INLINE V v_fnma(V a, V b, V c) { return c - a * b; }
#endif
NPK_INLINE M v_less(V a, V b) { return a < b; }
/* a > b or unordered */
NPK_INLINE M v_above(V a, V b) { return ~(a <= b); }
NPK_INLINE bool v_none(M m) {
    int32_t any = 0;
    for (int i = 0; i < LANES; i++)
        any |= m[i];
    return any == 0;
}
NPK_INLINE V v_select(M m, V a, V b) { return (V)((m & (M)a) | (~m & (M)b)); }
NPK_INLINE V v_min(V a, V b) { return v_select(a < b, a, b); }
NPK_INLINE V v_max(V a, V b) { return v_select(a > b, a, b); }
NPK_INLINE V v_and(V a, V b) { return (V)((M)a & (M)b); }
NPK_INLINE V v_or(V a, V b) { return (V)((M)a | (M)b); }
NPK_INLINE V v_bits(uint32_t u) { return (V)(u - (U){0}); }

/* a b - product. Without fused operations: products of upper halves of 12 bits are exact (Dekker 1971). */
NPK_INLINE V v_product_error(V a, V b, V product) {
#ifdef NPK_VMATH_FUSED
    return v_fma(a, b, -product);
#else
    V ah = v_and(a, v_bits(0xFFFFF000u)), bh = v_and(b, v_bits(0xFFFFF000u)), al = a - ah, bl = b - bh;
    return ((ah * bh - product) + ah * bl + al * bh) + al * bl;
#endif
}
/* The larger of numbers that are not negative; NaN is the largest. */
NPK_INLINE V v_largest_of(V a, V b) { return v_select((M)a > (M)b, a, b); }

NPK_INLINE V v_scale(V x, V t) { return (V)((U)x + ((U)t << 20)); }

NPK_INLINE V v_lookup(const float table[8], V index) {
    V found;
    for (int i = 0; i < LANES; i++)
        found[i] = table[((U)index)[i] & 7];
    return found;
}

NPK_INLINE V v_interval(V z) { return (V)(((U)z + (1u << 21)) >> 22); }

NPK_INLINE V v_load_part(const float *x, int64_t count, V fill) {
    memcpy(&fill, x, (size_t)count * sizeof(float));
    return fill;
}
NPK_INLINE void v_store_part(float *x, V v, int64_t count) { memcpy(x, &v, (size_t)count * sizeof(float)); }
#define v_stream v_store
#define v_stream_part v_store_part
#define v_fence() ((void)0)

NPK_INLINE V v_load_bf16(const uint16_t *x) {
    U bits;
    for (int i = 0; i < LANES; i++)
        bits[i] = x[i];
    return (V)(bits << 16);
}

/* Round to nearest even; a NaN keeps its sign and becomes quiet. */
NPK_INLINE void v_store_bf16(uint16_t *x, V v) {
    U bits = (U)v, top = bits >> 16, nan = (U)(v != v);
    U codes = (nan & ((top & 0x8000u) | 0x7FC0u)) | (~nan & ((bits + 0x7FFFu + (top & 1u)) >> 16));
    for (int i = 0; i < LANES; i++)
        x[i] = (uint16_t)codes[i];
}

/* Exponent and fraction move up by 13 bits, and the multiplication by 2^112 mends the bias and makes
 * subnormal numbers normal. */
NPK_INLINE V v_load_f16(const uint16_t *x) {
    U code;
    for (int i = 0; i < LANES; i++)
        code[i] = x[i];
    U magnitude = (code & 0x7FFFu) << 13, special = (U)(magnitude >= (0x7C00u << 13));
    V value = (V)magnitude * v_bits((112u + 127u) << 23);
    U bits = (special & (magnitude | 0x7F800000u)) | (~special & (U)value);
    return (V)(bits | (code & 0x8000u) << 16);
}

/* Round to nearest even. Below 2^-14 the last bit is 2^-24, which is also that of numbers near 0.5. */
NPK_INLINE void v_store_f16(uint16_t *x, V v) {
    U bits = (U)v, sign = bits >> 16 & 0x8000u;
    V size = (V)(bits & 0x7FFFFFFFu);
    U normal = ((U)size + 0xFFFu + ((U)size >> 13 & 1u) - (112u << 23)) >> 13;
    U small = (U)(size + v_set1(0.5f)) - (U)v_set1(0.5f);
    U is_small = (U)(size < v_set1(0x1p-14f)), is_huge = (U)(size >= v_set1(65520.0f)), nan = (U)(v != v);
    U code = (is_small & small) | (~is_small & normal);
    code = (is_huge & 0x7C00u) | (~is_huge & code);
    code = (nan & (0x7E00u | ((U)size >> 13 & 0x1FFu))) | (~nan & code);
    for (int i = 0; i < LANES; i++)
        x[i] = (uint16_t)(code[i] | sign[i]);
}

#include "vmath.h"
#endif

/* The vector operations of codec_simd.h in the vector extensions of gcc and clang, which compile for any CPU. */
#include <string.h>

#ifndef LANES_PLAIN
#define LANES_PLAIN 4 /* the 128 bits of SSE2 and NEON */
#endif
enum { LANES = LANES_PLAIN };
typedef uint32_t V __attribute__((vector_size(4 * LANES_PLAIN))); /* unsigned, because lanes may wrap */
typedef int32_t VI __attribute__((vector_size(4 * LANES_PLAIN)));
typedef float VF __attribute__((vector_size(4 * LANES_PLAIN)));
typedef V M;
#define TARGET

NPK_INLINE V v_set1(int32_t x) { return (V){0} + (uint32_t)x; }
NPK_INLINE V v_load(const void *p) {
    V v;
    memcpy(&v, p, sizeof v);
    return v;
}
NPK_INLINE void v_store(float *p, V v) { memcpy(p, &v, sizeof v); }
NPK_INLINE V v_add(V a, V b) { return a + b; }
NPK_INLINE V v_sub(V a, V b) { return a - b; }
NPK_INLINE V v_and(V a, V b) { return a & b; }
NPK_INLINE V v_or(V a, V b) { return a | b; }
NPK_INLINE V v_xor(V a, V b) { return a ^ b; }
NPK_INLINE V v_shl(V a, int by) { return a << by; }
NPK_INLINE V v_shr(V a, int by) { return a >> by; }
NPK_INLINE M v_gt(V a, V b) { return (V)((VI)a > (VI)b); }
NPK_INLINE V v_pick(M m, V a, V b) { return (a & m) | (b & ~m); }
NPK_INLINE V v_addf(V a, V b) { return (V)((VF)a + (VF)b); }
NPK_INLINE V v_subf(V a, V b) { return (V)((VF)a - (VF)b); }
NPK_INLINE V v_mulf(V a, V b) { return (V)((VF)a * (VF)b); }
NPK_INLINE V v_divf(V a, V b) { return (V)((VF)a / (VF)b); }
NPK_INLINE V v_minf(V a, V b) { return v_pick((V)((VF)a < (VF)b), a, b); }
NPK_INLINE V v_maxf(V a, V b) { return v_pick((V)((VF)a > (VF)b), a, b); }

NPK_INLINE V v_load8(const uint8_t *p) {
    V v = {0};
    NPK_UNROLL
    for (int l = 0; l < LANES; l++)
        v[l] = p[l];
    return v;
}
NPK_INLINE V v_load16(const uint8_t *p) {
    uint16_t codes[LANES];
    V v = {0};
    memcpy(codes, p, sizeof codes);
    NPK_UNROLL
    for (int l = 0; l < LANES; l++)
        v[l] = codes[l];
    return v;
}
NPK_INLINE void v_store8(uint8_t *p, const V v[4]) {
    NPK_UNROLL
    for (int i = 0; i < 4; i++)
        for (int l = 0; l < LANES; l++)
            p[i * LANES + l] = (uint8_t)v[i][l];
}
NPK_INLINE void v_store16(uint8_t *p, const V v[4]) {
    uint16_t codes[4 * LANES];
    NPK_UNROLL
    for (int i = 0; i < 4; i++)
        for (int l = 0; l < LANES; l++)
            codes[i * LANES + l] = (uint16_t)v[i][l];
    memcpy(p, codes, sizeof codes);
}

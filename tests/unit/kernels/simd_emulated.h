/* The vector operations of ukr_simd.h in plain C, sixteen lanes: stands in for simd_avx512.h. */
#include <math.h>
#include <string.h>

enum { LANES = 16 };
typedef struct {
    float lane[LANES];
} V;

#define TARGET
#define npk_cpu_supports(name) true

static inline V v_zero(void) { return (V){{0}}; }
static inline V v_load(const float *x) {
    V v;
    memcpy(v.lane, x, sizeof v.lane);
    return v;
}
static inline void v_store(float *x, V v) { memcpy(x, v.lane, sizeof v.lane); }
typedef int64_t MASK; /* how many lanes */
static inline MASK v_mask(int64_t count) { return count; }
static inline V v_load_some(const float *x, MASK mask) {
    V v = {{0}};
    memcpy(v.lane, x, (size_t)mask * sizeof(float));
    return v;
}
static inline void v_store_some(float *x, MASK mask, V v) { memcpy(x, v.lane, (size_t)mask * sizeof(float)); }
static inline V v_set1(float x) {
    V v;
    for (int i = 0; i < LANES; i++)
        v.lane[i] = x;
    return v;
}
static inline V v_widen(int type, const uint16_t *x) {
    V v;
    gemm_widen_generic(type, 1, LANES, x, 0, v.lane, 0);
    return v;
}
static inline V v_add(V a, V b) {
    for (int i = 0; i < LANES; i++)
        a.lane[i] += b.lane[i];
    return a;
}
static inline V v_fma(V a, V b, V c) {
    for (int i = 0; i < LANES; i++)
        c.lane[i] = fmaf(a.lane[i], b.lane[i], c.lane[i]);
    return c;
}

static inline void v_sums(V (*x)[1], float *out) {
    for (int q = 0; q < 4; q++) {
        V sum = x[q][0];
        for (int half = LANES / 2; half > 0; half /= 2)
            for (int i = 0; i < half; i++)
                sum.lane[i] += sum.lane[i + half];
        out[q] = sum.lane[0];
    }
}

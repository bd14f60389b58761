/* Stands in for csrc/host/simd_avx512.h: the vector operations of template.h in plain C, sixteen lanes. */
#include <math.h>
#include <string.h>

enum { LANES = 16 };
typedef struct {
    float lane[LANES];
} V;
typedef struct {
    int32_t lane[LANES];
} I;
#define TARGET
#define TARGET_VNNI
#define npk_cpu_supports(name) true
#define EACH for (int l = 0; l < LANES; l++)

static inline V v_set1(float x) { V v; EACH v.lane[l] = x; return v; }
static inline V v_add(V a, V b) { EACH a.lane[l] += b.lane[l]; return a; }
static inline V v_fma(V a, V b, V c) { EACH a.lane[l] = a.lane[l] * b.lane[l] + c.lane[l]; return a; }
static inline V v_rsqrt(V a) { EACH a.lane[l] = 1.0f / sqrtf(a.lane[l]); return a; }
static inline float v_first(V v) { return v.lane[0]; }
static inline I i_set1(int32_t x) { I v; EACH v.lane[l] = x; return v; }
static inline I i_add(I a, I b) { EACH a.lane[l] += b.lane[l]; return a; }
static inline int32_t i_first(I v) { return v.lane[0]; }
static inline I i_hide(I v) { return v; }
static inline I i_load(const char *p) { I v; memcpy(&v, p, sizeof v); return v; }
static inline void i_store(char *p, I v) { memcpy(p, &v, sizeof v); }
#define i_store_past i_store
#define v_fence() ((void)0)
static inline V v_from_fp16(I h) { (void)h; return v_set1(1.0f); }
static inline V v_from_bf16(I h) { (void)h; return v_set1(1.0f); }
static inline I i_dot16(I acc, I a, I b) { EACH acc.lane[l] += (a.lane[l] & 3) * (b.lane[l] & 3); return acc; }
#define i_dot8 i_dot16

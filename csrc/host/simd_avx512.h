/* The vector operations of template.h in AVX-512 F, BW and VNNI. */
#include <immintrin.h>

enum { LANES = 16 };
typedef __m512 V;
typedef __m512i I;
#define TARGET __attribute__((target("avx512f,avx512bw")))
#define TARGET_VNNI __attribute__((target("avx512f,avx512bw,avx512vnni")))
#define v_set1 _mm512_set1_ps
#define v_add _mm512_add_ps
#define v_fma _mm512_fmadd_ps
#define v_rsqrt(x) _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_sqrt_ps(x))
#define v_first _mm512_cvtss_f32
#define v_from_fp16(h) _mm512_cvtph_ps(_mm512_castsi512_si256(h))
#define v_from_bf16(h) \
    _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(h)), 16))
#define v_fence _mm_sfence
#define i_set1 _mm512_set1_epi32
#define i_add _mm512_add_epi32
#define i_first(v) _mm_cvtsi128_si32(_mm512_castsi512_si128(v))
#define i_load(p) _mm512_load_si512((const void *)(p))
#define i_store(p, v) _mm512_store_si512((void *)(p), v)
#define i_store_past(p, v) _mm512_stream_si512((void *)(p), v)
#define i_dot16(acc, a, b) _mm512_add_epi32(acc, _mm512_madd_epi16(a, b))

TARGET static inline __attribute__((always_inline)) I i_hide(I x) {
    __asm__ volatile("" : "+v"(x));
    return x;
}

TARGET_VNNI static inline __attribute__((always_inline)) I i_dot8(I acc, I a, I b) {
    return _mm512_dpbusd_epi32(acc, a, b);
}

/* The operations of int8_simd.h in AVX-512 VNNI: vpdpbusd sums in 32 bits, so partial sums are the sums. */
#include <immintrin.h>
#include <string.h>

enum { LANES = 16 };
typedef __m512 V;
typedef __m512i I;
typedef __m512i P;
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define v_set1 _mm512_set1_ps
#define v_load _mm512_loadu_ps
#define v_store _mm512_storeu_ps
#define v_add _mm512_add_ps
#define v_mul _mm512_mul_ps
#define v_of _mm512_cvtepi32_ps
#define i_zero _mm512_setzero_si512
#define i_load(p) _mm512_xor_si512(_mm512_loadu_si512((const void *)(p)), _mm512_set1_epi8((char)0x88))
#define i_low(v) _mm512_and_si512(v, _mm512_set1_epi8(15))
#define i_high(v) _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15))
#define i_add _mm512_add_epi32
#define i_sub _mm512_sub_epi32
#define i_mul _mm512_mullo_epi32
#define i_set1 _mm512_set1_epi32
#define i_of _mm512_cvtps_epi32
#define p_start(offset) _mm512_madd_epi16(_mm512_set1_epi32(offset), _mm512_set1_epi16(1))
#define p_sum(p) (p)

TARGET static inline __attribute__((always_inline)) I i_quad(const int8_t *x) {
    int32_t quad;
    memcpy(&quad, x, sizeof quad);
    return _mm512_set1_epi32(quad);
}

/* Assembly, because GCC 12 spills the accumulators of _mm512_dpbusd_epi32. */
TARGET static inline __attribute__((always_inline)) P p_dot(P p, I u, I s) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(p) : "v"(u), "v"(s));
    return p;
}

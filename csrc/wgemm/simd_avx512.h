/* The vector operations of float_simd.h in AVX-512. */
#include <immintrin.h>

enum { LANES = 16 };
typedef __m512 V;
typedef __m512i I;
#define TARGET __attribute__((target("avx512f")))
#define v_zero _mm512_setzero_ps
#define v_set1 _mm512_set1_ps
#define v_load _mm512_loadu_ps
#define v_store _mm512_storeu_ps
#define v_add _mm512_add_ps
#define v_sub _mm512_sub_ps
#define v_mul _mm512_mul_ps
#define v_fma _mm512_fmadd_ps
#define v_of _mm512_cvtepi32_ps
#define i_load(p) _mm512_loadu_si512((const void *)(p))
#define i_bits(v, left, right) _mm512_srai_epi32(_mm512_slli_epi32(v, left), right)

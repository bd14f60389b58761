/* The vector operations of ukr_simd.h in AVX-512. */
#include <immintrin.h>

enum { LANES = 16 };
typedef __m512 V;
typedef __mmask16 MASK;
#define TARGET __attribute__((target("avx512f")))
#define v_zero _mm512_setzero_ps
#define v_set1 _mm512_set1_ps
#define v_load _mm512_loadu_ps
#define v_store _mm512_storeu_ps
#define v_add _mm512_add_ps
#define v_fma _mm512_fmadd_ps
#define v_mask(count) ((__mmask16)((1u << (count)) - 1u))
#define v_load_some(x, mask) _mm512_maskz_loadu_ps(mask, x)
#define v_store_some(x, mask, v) _mm512_mask_storeu_ps(x, mask, v)

#include "host.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { LANES = 8 };
typedef __m256 V;
typedef __m256i I;
#define HAS_SHORT
#define TARGET __attribute__((target("avx2,fma,f16c")))
#define v_set1 _mm256_set1_ps
#define v_add _mm256_add_ps
#define v_fma _mm256_fmadd_ps
#define v_rsqrt(x) _mm256_div_ps(_mm256_set1_ps(1.0f), _mm256_sqrt_ps(x))
#define v_first _mm256_cvtss_f32
#define v_from_fp16(h) _mm256_cvtph_ps(_mm256_castsi256_si128(h))
#define v_from_bf16(h) \
    _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(h)), 16))
#define v_fence _mm_sfence
#define i_set1 _mm256_set1_epi32
#define i_add _mm256_add_epi32
#define i_first(v) _mm_cvtsi128_si32(_mm256_castsi256_si128(v))
#define i_load(p) _mm256_load_si256((const __m256i *)(p))
#define i_store(p, v) _mm256_store_si256((__m256i *)(p), v)
#define i_store_past(p, v) _mm256_stream_si256((__m256i *)(p), v)
#define i_dot16(acc, a, b) _mm256_add_epi32(acc, _mm256_madd_epi16(a, b))
#define i_dot8(acc, a, b) i_dot16(acc, _mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1))

TARGET NPK_INLINE I i_hide(I x) {
    __asm__ volatile("" : "+x"(x));
    return x;
}

#include "template.h"

/* Sums of two products saturate at 16 bits: the rate of the instruction, not of an exact product. */
DOT(TARGET, dot8, 4, i_dot8)

static const host_table TABLE = {
    {fma_chains, fma_one_chain, additions, reciprocal_roots, fma_fp16, fma_bf16, dot16, dot8},
    {read_once, write_once, copy_once, copy_past}};

const host_table *host_avx2(void) {
    return npk_cpu_supports("avx2") && npk_cpu_supports("fma") && npk_cpu_supports("f16c") ? &TABLE : NULL;
}
#else
const host_table *host_avx2(void) { return NULL; }
#endif

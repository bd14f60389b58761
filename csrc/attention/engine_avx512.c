/* AVX-512: 14 x 32, i.e. 28 accumulators, 2 vectors and a broadcast in 32 registers. */
#include "attention.h"

#if defined(__x86_64__)
#include <math.h>
#include <xmmintrin.h>

#ifndef NPK_SIMD_AVX512 /* the tests put plain C here, to run this tile on CPUs that lack AVX-512 */
#define NPK_SIMD_AVX512 "simd_avx512.h"
#endif
#include NPK_SIMD_AVX512

enum { MR = 14, NV = 2 };
#include "engine_simd.h"

const attn_isa *attn_isa_avx512(void) { return npk_cpu_supports("avx512f") ? &ISA : NULL; }
#else
const attn_isa *attn_isa_avx512(void) { return NULL; }
#endif

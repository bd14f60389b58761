/* The casts in AVX-512, sixteen lanes. */
#include "formats.h"

#if defined(__x86_64__)
#ifdef NPK_CODEC_EMULATED /* the tests run this file on CPUs that lack AVX-512 */
#define LANES_PLAIN 16
#include "simd_plain.h"
#define npk_cpu_supports(name) true
#else
#include "simd_avx512.h"
#endif
#include "codec_simd.h"

const codec_ctx *codec_ctx_avx512(void) { return npk_cpu_supports("avx512f") ? &CTX : NULL; }
#else
const codec_ctx *codec_ctx_avx512(void) { return NULL; }
#endif

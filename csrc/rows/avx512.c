#include "rows.h"

#if defined(__x86_64__)
#ifndef NPK_VMATH_AVX512 /* the tests put plain C here, to run this code on CPUs that lack AVX-512 */
#define NPK_VMATH_AVX512 "../common/vmath_avx512.h"
#endif
#include NPK_VMATH_AVX512
#include "template.h"

const rows_table *rows_avx512(void) { return npk_cpu_supports("avx512f") ? &TABLE : NULL; }
#else
const rows_table *rows_avx512(void) { return NULL; }
#endif

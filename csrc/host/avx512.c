#include "host.h"

#if defined(__x86_64__)
#ifndef NPK_HOST_AVX512 /* the tests put plain C here, to run this code on CPUs that lack AVX-512 */
#define NPK_HOST_AVX512 "simd_avx512.h"
#endif
#include NPK_HOST_AVX512

#define HAS_SHORT
#include "template.h"

DOT(TARGET_VNNI, dot8, 4, i_dot8)

static const host_table TABLE = {
    {fma_chains, fma_one_chain, additions, reciprocal_roots, fma_fp16, fma_bf16, dot16, NULL},
    {read_once, write_once, copy_once, copy_past}};

const host_table *host_avx512(void) {
    return npk_cpu_supports("avx512f") && npk_cpu_supports("avx512bw") ? &TABLE : NULL;
}

host_compute host_vnni(void) { return npk_cpu_supports("avx512_vnni") ? dot8 : NULL; }
#else
const host_table *host_avx512(void) { return NULL; }
host_compute host_vnni(void) { return NULL; }
#endif

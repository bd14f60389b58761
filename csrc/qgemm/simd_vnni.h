/* The vector operations of kernel_vnni.c in AVX-512 VNNI. */
#include <immintrin.h>
#include <string.h>

typedef __m512i V;
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define v_zero _mm512_setzero_si512
#define v_load(p) _mm512_loadu_si512((const void *)(p))
#define v_store(p, v) _mm512_storeu_si512((void *)(p), v)
#define v_add _mm512_add_epi32

TARGET static inline __attribute__((always_inline)) V v_quad(const uint8_t *a) {
    int32_t quad;
    memcpy(&quad, a, sizeof quad);
    return _mm512_set1_epi32(quad);
}

/* acc += sums of four products u8 * s8. Assembly, because GCC 12 spills the accumulators of
 * _mm512_dpbusd_epi32. */
TARGET static inline __attribute__((always_inline)) V v_dot(V acc, V a, V b) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
    return acc;
}

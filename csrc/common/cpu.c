/* Which instruction sets may be used, from CPUID and XCR0.
 *
 * A CPUID bit alone is not enough: the operating system must also save the registers across context
 * switches, which XGETBV reports (Intel SDM vol. 1, 14.3 and 15.2; AMD APM vol. 2, 11.5). Brand
 * strings are never read: hypervisors change them. */
#include "npk.h"

#include <pthread.h>
#include <string.h>

enum { EAX, EBX, ECX, EDX };

#define XCR0_AVX 0x6u        /* XMM and YMM */
#define XCR0_AVX512 0xE6u    /* and opmask, ZMM0-15 upper halves, ZMM16-31 */
#define XCR0_AMX 0x60000u    /* tile configuration and tile data */

typedef struct {
    const char *name;
    uint32_t leaf, subleaf;
    int reg, bit;
    uint64_t state; /* bits of XCR0 that must be set */
} feature;

static const feature FEATURES[] = {
    {"sse2", 1, 0, EDX, 26, 0},
    {"avx", 1, 0, ECX, 28, XCR0_AVX},
    {"fma", 1, 0, ECX, 12, XCR0_AVX},
    {"f16c", 1, 0, ECX, 29, XCR0_AVX},
    {"avx2", 7, 0, EBX, 5, XCR0_AVX},
    {"avx_vnni", 7, 1, EAX, 4, XCR0_AVX},
    {"avx512f", 7, 0, EBX, 16, XCR0_AVX512},
    {"avx512dq", 7, 0, EBX, 17, XCR0_AVX512},
    {"avx512bw", 7, 0, EBX, 30, XCR0_AVX512},
    {"avx512vl", 7, 0, EBX, 31, XCR0_AVX512},
    {"avx512_vbmi", 7, 0, ECX, 1, XCR0_AVX512},
    {"avx512_vnni", 7, 0, ECX, 11, XCR0_AVX512},
    {"avx512_bf16", 7, 1, EAX, 5, XCR0_AVX512},
    {"avx512_fp16", 7, 0, EDX, 23, XCR0_AVX512},
    {"amx_tile", 7, 0, EDX, 24, XCR0_AMX},
    {"amx_bf16", 7, 0, EDX, 22, XCR0_AMX},
    {"amx_int8", 7, 0, EDX, 25, XCR0_AMX},
};

enum { FEATURE_COUNT = (int)(sizeof FEATURES / sizeof FEATURES[0]) };

#if defined(__x86_64__)
#include <cpuid.h>

static uint64_t enabled_state(void) {
    uint32_t r[4] = {0}, lo = 0, hi = 0;
    if (!__get_cpuid_count(1, 0, &r[EAX], &r[EBX], &r[ECX], &r[EDX]) || !(r[ECX] >> 27 & 1)) /* OSXSAVE */
        return 0;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

static bool probe(const feature *f) {
    uint32_t r[4] = {0};
    if (!__get_cpuid_count(f->leaf, f->subleaf, &r[EAX], &r[EBX], &r[ECX], &r[EDX]))
        return false;
    return (r[f->reg] >> f->bit & 1) && (enabled_state() & f->state) == f->state;
}
#else
static bool probe(const feature *f) {
    (void)f;
    return false;
}
#endif

/* Asked once: CPUID traps to the hypervisor in a virtual machine, tens of microseconds each. */
static bool present[FEATURE_COUNT];
static pthread_once_t probed = PTHREAD_ONCE_INIT;

static void probe_all(void) {
    for (int i = 0; i < FEATURE_COUNT; i++)
        present[i] = probe(&FEATURES[i]);
}

const char *npk_cpu_feature_name(int index) {
    return index >= 0 && index < FEATURE_COUNT ? FEATURES[index].name : NULL;
}

int npk_cpu_has(int index) {
    pthread_once(&probed, probe_all);
    return index >= 0 && index < FEATURE_COUNT && present[index];
}

bool npk_cpu_supports(const char *name) {
    for (int i = 0; i < FEATURE_COUNT; i++)
        if (strcmp(FEATURES[i].name, name) == 0)
            return npk_cpu_has(i);
    return false;
}

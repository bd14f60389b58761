/* Checks and choice of the loop. Nothing here knows an instruction set. */
#include "host.h"

/* What every stream loop takes at once, in bytes, for the longest vectors. */
enum { BLOCK = 512, ALIGN = 64, ADDS = 16 };

static const host_table *table_of(int isa) {
    switch (isa) {
    case NPK_GENERIC: return host_generic();
    case NPK_AVX2: return host_avx2();
    case NPK_AVX512: return host_avx512();
    default: return NULL;
    }
}

int npk_host_compute(int isa, int kind, int64_t steps, double *operations) {
    if (isa < NPK_GENERIC || isa > NPK_AVX512 || kind < 0 || kind >= NPK_HOST_KINDS || steps < 0 || !operations)
        return NPK_EINVAL;
    const host_table *table = table_of(isa);
    host_compute run = !table ? NULL : isa == NPK_AVX512 && kind == NPK_HOST_DOT8 ? host_vnni() : table->compute[kind];
    if (!run)
        return NPK_EUNSUPPORTED;
    float sink;
    *operations = run(steps, &sink) * (double)steps;
    volatile float kept = sink;
    (void)kept;
    return NPK_OK;
}

int npk_host_stream(int isa, int kind, int64_t bytes, int64_t passes, const void *source, void *target) {
    if (isa < NPK_GENERIC || isa > NPK_AVX512 || kind < 0 || kind >= NPK_HOST_STREAMS || bytes < 0 || bytes % BLOCK
        || passes < 0 || (uintptr_t)source % ALIGN || (uintptr_t)target % ALIGN)
        return NPK_EINVAL;
    if (bytes && ((kind != NPK_HOST_WRITE && !source) || (kind != NPK_HOST_READ && !target)))
        return NPK_EINVAL;
    const host_table *table = table_of(isa);
    if (!table || !table->stream[kind])
        return NPK_EUNSUPPORTED;
    for (int64_t pass = 0; pass < passes; pass++) {
        table->stream[kind](bytes, source, target);
        HOST_FORGET();
    }
    return NPK_OK;
}

int npk_host_cycles(int64_t steps) {
    if (steps < 0)
        return NPK_EINVAL;
    uint64_t sum = 0, one = 1;
    __asm__ volatile("" : "+r"(one)); /* an addition of a constant may cost nothing */
    for (int64_t s = 0; s < steps; s += ADDS) {
        NPK_UNROLL
        for (int u = 0; u < ADDS; u++) {
            sum += one;
            __asm__ volatile("" : "+r"(sum));
        }
    }
    return NPK_OK;
}

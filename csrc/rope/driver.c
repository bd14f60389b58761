/* Argument checks, choice of the layout, threads. Nothing here knows an ISA. */
#include "../common/rowspan.h"
#include "../common/threads.h"
#include "rope.h"

/* Tokens of one task hold about so many elements. */
enum { CHUNK = 1 << 14 };

typedef struct {
    rope_run run;
    int64_t tokens, heads, dim, half, stride_x, per_task;
    const float *x;
    const int64_t *position;
    const float *cosines, *sines;
    float *out;
} job;

static void run_task(void *context, int64_t task) {
    const job *j = context;
    int64_t end = npk_min((task + 1) * j->per_task, j->tokens);
    for (int64_t t = task * j->per_task; t < end; t++) {
        int64_t at = j->position[t] * j->half;
        j->run(j->heads, j->dim, j->half, j->x + t * j->stride_x, j->cosines + at, j->sines + at,
               j->out + t * j->heads * j->dim);
    }
}

static const rope_table *table(int isa) {
    switch (isa) {
    case NPK_GENERIC: return rope_generic();
    case NPK_AVX2: return rope_avx2();
    case NPK_AVX512: return rope_avx512();
    default: return NULL;
    }
}

static bool in_range(const int64_t *position, int64_t tokens, int64_t positions) {
    bool good = true;
    for (int64_t t = 0; t < tokens; t++)
        good &= position[t] >= 0 && position[t] < positions;
    return good;
}

int npk_rope(int isa, int interleaved, int64_t tokens, int64_t heads, int64_t dim, int64_t half, const float *x,
             int64_t stride_x, const int64_t *position, int64_t positions, const float *cosines, const float *sines,
             float *out, int threads) {
    int64_t width;
    if (isa < NPK_GENERIC || isa > NPK_AVX512 || tokens < 0 || heads < 0 || dim < 0 || half < 0 || half > dim / 2
        || positions < 0 || threads < 1)
        return NPK_EINVAL;
    if (__builtin_mul_overflow(heads, dim, &width) || !npk_rows_fit(tokens, width, stride_x, sizeof(float))
        || !npk_rows_fit(positions, half, half, sizeof(float)))
        return NPK_EOVERFLOW;
    const rope_table *runs = table(isa);
    if (!runs)
        return NPK_EUNSUPPORTED;
    if (tokens == 0 || width == 0)
        return NPK_OK;
    if (!x || !out || !position || (half > 0 && (!cosines || !sines)) || !in_range(position, tokens, positions))
        return NPK_EINVAL;
    int64_t size = tokens * width * (int64_t)sizeof(float), table_size = positions * half * (int64_t)sizeof(float);
    if (npk_rows_clash(out, x, tokens, width, stride_x, sizeof(float))
        || npk_overlap(out, size, position, tokens * (int64_t)sizeof *position)
        || npk_overlap(out, size, cosines, table_size) || npk_overlap(out, size, sines, table_size))
        return NPK_EALIAS;
    bool stream = !interleaved && dim % 4 == 0 && half % 4 == 0
                  && npk_streams(out, size, out == x);
    int64_t per_task = npk_ceil_div(CHUNK, width), tasks = npk_ceil_div(tokens, per_task);
    job j = {(*runs)[interleaved ? INTERLEAVED : stream ? STREAMED_HALVES : HALVES],
             tokens, heads, dim, half, stride_x, per_task, x, position, cosines, sines, out};
    return npk_parallel(tasks > 1 ? threads : 1, tasks, run_task, &j);
}

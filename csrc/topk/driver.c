/* Argument checks and threads. Nothing here knows an ISA. */
#include "../common/rowspan.h"
#include "../common/threads.h"
#include "topk.h"

/* Rows of one task hold about so many elements. */
enum { CHUNK = 1 << 14 };

typedef struct {
    topk_table run;
    int64_t rows, cols, best, stride_x, per_task;
    const float *x;
    float *values;
    int64_t *indices;
} job;

static void run_task(void *context, int64_t task) {
    const job *j = context;
    int64_t end = npk_min((task + 1) * j->per_task, j->rows);
    for (int64_t row = task * j->per_task; row < end; row++)
        j->run(j->cols, j->best, j->x + row * j->stride_x, j->values + row * j->best, j->indices + row * j->best);
}

static const topk_table *table(int isa) {
    switch (isa) {
    case NPK_GENERIC: return topk_generic();
    case NPK_AVX2: return topk_avx2();
    case NPK_AVX512: return topk_avx512();
    default: return NULL;
    }
}

int npk_topk(int isa, int64_t rows, int64_t cols, int64_t best, const float *x, int64_t stride_x, float *values,
             int64_t *indices, int threads) {
    if (isa < NPK_GENERIC || isa > NPK_AVX512 || rows < 0 || cols < 0 || best < 0 || best > cols || threads < 1)
        return NPK_EINVAL;
    if (!npk_rows_fit(rows, cols, stride_x, sizeof(int64_t)))
        return NPK_EOVERFLOW;
    const topk_table *run = table(isa);
    if (!run)
        return NPK_EUNSUPPORTED;
    if (rows == 0 || best == 0)
        return NPK_OK;
    if (!x || !values || !indices)
        return NPK_EINVAL;
    int64_t per_task = npk_ceil_div(CHUNK, cols), tasks = npk_ceil_div(rows, per_task);
    job j = {*run, rows, cols, best, stride_x, per_task, x, values, indices};
    return npk_parallel(tasks > 1 ? threads : 1, tasks, run_task, &j);
}

/* Argument checks, choice of the row function, threads. Nothing here knows an ISA. */
#include "../common/rowspan.h"
#include "../common/threads.h"
#include "rows.h"

/* Rows of one task hold about so many elements; more when they are stored past the caches, which each task waits for. */
enum { CHUNK = 1 << 14, STREAMED_CHUNK = 1 << 18 };

typedef struct {
    rows_run run;
    rows_args args;
    int64_t rows_per_task;
} job;

static void run_task(void *context, int64_t task) {
    const job *j = context;
    int64_t first = task * j->rows_per_task;
    j->run(&j->args, first, npk_min(first + j->rows_per_task, j->args.rows));
}

static const rows_table *table(int isa) {
    switch (isa) {
    case NPK_GENERIC: return rows_generic();
    case NPK_AVX2: return rows_avx2();
    case NPK_AVX512: return rows_avx512();
    default: return NULL;
    }
}

/* Whether something that is written shares memory with something else that is read or written. */
static bool clashes(const rows_args *a) {
    int64_t dense = a->rows * a->cols * a->bytes, vector = a->cols * (int64_t)sizeof(float);
    int64_t residual = a->residual ? dense : 0;
    if (npk_rows_clash(a->out, a->x, a->rows, a->cols, a->stride_x, a->bytes)
        || npk_overlap(a->out, dense, a->weight, vector)
        || npk_overlap(a->out, dense, a->bias, vector))
        return true;
    return residual
           && (npk_overlap(a->residual, residual, a->out, dense) || a->residual == a->x
               || npk_rows_clash(a->residual, a->x, a->rows, a->cols, a->stride_x, a->bytes)
               || npk_overlap(a->residual, residual, a->weight, vector));
}

static int run_rows(int isa, int op, int type, rows_args a, int threads) {
    if (isa < NPK_GENERIC || isa > NPK_AVX512 || type < NPK_FP32 || type > NPK_FP16 || a.rows < 0 || a.cols < 0
        || threads < 1)
        return NPK_EINVAL;
    a.bytes = npk_type_bytes(type);
    if (!npk_rows_fit(a.rows, a.cols, a.stride_x, a.bytes))
        return NPK_EOVERFLOW;
    const rows_table *runs = table(isa);
    if (!runs)
        return NPK_EUNSUPPORTED;
    if (a.rows == 0 || a.cols == 0)
        return NPK_OK;
    if (!a.x || !a.out)
        return NPK_EINVAL;
    if (clashes(&a))
        return NPK_EALIAS;
    bool aligned_rows = a.rows == 1 || a.cols % 4 == 0, waits = op == SOFTMAX && a.cols > SCRATCH;
    bool stream = type == NPK_FP32 && aligned_rows && !waits
                  && npk_streams(a.out, a.rows * a.cols * a.bytes, a.out == a.x);
    int64_t per_task = npk_ceil_div(stream ? STREAMED_CHUNK : CHUNK, a.cols), tasks = npk_ceil_div(a.rows, per_task);
    job j = {(*runs)[op][stream ? STREAMED_FP32 : type], a, per_task};
    return npk_parallel(tasks > 1 ? threads : 1, tasks, run_task, &j);
}

int npk_layernorm(int isa, int type, int64_t rows, int64_t cols, const void *x, int64_t stride_x,
                  const float *weight, const float *bias, float eps, void *out, int threads) {
    rows_args a = {rows, cols, stride_x, 0, x, weight, bias, NULL, eps, out};
    return run_rows(isa, LAYERNORM, type, a, threads);
}

int npk_rmsnorm(int isa, int type, int64_t rows, int64_t cols, const void *x, int64_t stride_x, const float *weight,
                float eps, void *residual, void *out, int threads) {
    rows_args a = {rows, cols, stride_x, 0, x, weight, NULL, residual, eps, out};
    return run_rows(isa, RMSNORM, type, a, threads);
}

int npk_softmax(int isa, int type, int logarithm, int64_t rows, int64_t cols, const void *x, int64_t stride_x,
                void *out, int threads) {
    rows_args a = {rows, cols, stride_x, 0, x, NULL, NULL, NULL, 0.0f, out};
    return run_rows(isa, logarithm ? LOG_SOFTMAX : SOFTMAX, type, a, threads);
}

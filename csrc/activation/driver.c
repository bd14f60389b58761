/* Argument checks, choice of the loop, threads. Nothing here knows an ISA. */
#include "../common/rowspan.h"
#include "../common/threads.h"
#include "activation.h"

/* Elements of one task: a few microseconds of work, a multiple of every vector; more when they are stored past the
 * caches, which each task waits for. */
enum { CHUNK = 1 << 14, STREAMED_CHUNK = 1 << 18 };

typedef struct {
    activation_run run;
    int64_t rows, cols, chunk, chunks, stride_x, stride_y, bytes;
    const char *x, *y;
    char *out;
} job;

static void run_task(void *context, int64_t task) {
    const job *j = context;
    int64_t row = task / j->chunks, start = task % j->chunks * j->chunk;
    const char *y = j->y ? j->y + (row * j->stride_y + start) * j->bytes : NULL;
    j->run(npk_min(j->chunk, j->cols - start), j->x + (row * j->stride_x + start) * j->bytes, y,
           j->out + (row * j->cols + start) * j->bytes);
}

static const activation_table *table(int isa) {
    switch (isa) {
    case NPK_GENERIC: return activation_generic();
    case NPK_AVX2: return activation_avx2();
    case NPK_AVX512: return activation_avx512();
    default: return NULL;
    }
}

int npk_activation(int isa, int function, int type, int64_t rows, int64_t cols, const void *x, int64_t stride_x,
                   const void *y, int64_t stride_y, void *out, int threads) {
    if (isa < NPK_GENERIC || isa > NPK_AVX512 || function < NPK_EXP || function > NPK_SWIGLU || type < NPK_FP32
        || type > NPK_FP16 || rows < 0 || cols < 0 || threads < 1)
        return NPK_EINVAL;
    int64_t bytes = npk_type_bytes(type);
    if (!npk_rows_fit(rows, cols, stride_x, bytes) || !npk_rows_fit(rows, cols, stride_y, bytes))
        return NPK_EOVERFLOW;
    const activation_table *runs = table(isa);
    if (!runs)
        return NPK_EUNSUPPORTED;
    if (rows == 0 || cols == 0)
        return NPK_OK;
    if (!x || !out || (function == NPK_SWIGLU && !y))
        return NPK_EINVAL;
    if (npk_rows_clash(out, x, rows, cols, stride_x, bytes)
        || (function == NPK_SWIGLU && npk_rows_clash(out, y, rows, cols, stride_y, bytes)))
        return NPK_EALIAS;
    bool aligned_rows = rows == 1 || cols % 4 == 0;
    bool stream = type == NPK_FP32 && aligned_rows && npk_streams(out, rows * cols * bytes, out == x || out == y);
    int64_t chunk = stream ? STREAMED_CHUNK : CHUNK;
    job j = {(*runs)[function][stream ? STREAMED_FP32 : type], rows, cols, chunk, npk_ceil_div(cols, chunk), stride_x,
             stride_y, bytes, x, y, out};
    return npk_parallel(rows * j.chunks > 1 ? threads : 1, rows * j.chunks, run_task, &j);
}

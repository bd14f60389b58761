/* Entry points: checks, orientation, threads, results of 16 bits. */
#include "../common/threads.h"
#include "gemm.h"

/* Below this many multiply-adds a thread costs more to wake than it saves. */
static const double MIN_WORK_PER_THREAD = 4 << 20;

/* Parts of C of a 16-bit result, which are computed in floats first, and then rounded. */
enum { RESULT_ROWS = 768, RESULT_COLS = 1024, PARTS_PER_THREAD = 4, LEAST_PART = 256 };

/* Rows of A up to which a row-major B is read in the order of memory, or nearly: its rows are cut into few long pieces. */
enum { LONG_RUN_ROWS = 16 };

/* Threads share a packed B: rows of a part, columns packed by a task, and floats packed at once, at most. */
enum { SHARED_ROWS = 96, SHARED_COLS = 256, SHARED_FLOATS = 4 << 20 };

/* Multiply-adds from which waiting for the packing of all costs less than packing twice. */
static const double SHARED_WORK = 64 << 20;


/* A product cut into parts of C; K is never cut here, so the bits are those of one thread. */
typedef struct {
    const gemm_ctx *ctx;
    const gemm_args *whole;
    int c_type;
    int64_t rows, cols, across; /* of a part; parts side by side */
    _Atomic int status;
} job;

static gemm_args part_of(const gemm_args *g, int64_t i, int64_t rows, int64_t j, int64_t cols) {
    gemm_args s = *g;
    s.m = rows;
    s.n = cols;
    if (g->lines)
        s.first_line += i;
    else
        s.a.data = gemm_at(&g->a, i, 0);
    if (g->packed_b || g->panels)
        s.first_col += j;
    if (!g->packed_b && !g->panels)
        s.b.data = gemm_at(&g->b, 0, j);
    return s;
}

static int round_part(const job *x, gemm_args *s, int64_t i, int64_t j) {
    uint16_t *c = (uint16_t *)x->whole->c + i * x->whole->rsc + j;
    s->c = gemm_scratch(GEMM_RESULT, s->m * s->n);
    if (!s->c)
        return NPK_ENOMEM;
    s->rsc = s->n;
    s->csc = 1;
    int status = gemm_multiply(x->ctx, s);
    if (status == NPK_OK)
        x->ctx->narrow(x->c_type, s->m, s->n, s->c, s->rsc, c, x->whole->rsc);
    return status;
}

static void run_part(void *context, int64_t task) {
    job *x = context;
    const gemm_args *g = x->whole;
    int64_t i = task / x->across * x->rows, j = task % x->across * x->cols;
    gemm_args s = part_of(g, i, npk_min(x->rows, g->m - i), j, npk_min(x->cols, g->n - j));
    int status;
    if (x->c_type == NPK_GEMM_F32) {
        s.c = g->c + i * g->rsc + j * g->csc;
        status = gemm_multiply(x->ctx, &s);
    } else {
        status = round_part(x, &s, i, j);
    }
    if (status != NPK_OK)
        x->status = status;
}

/* Parts of one side: several a thread, so that a slow core gets fewer, but not so thin that packing shows. */
static int64_t part_size(int64_t size, int64_t unit, int threads, int a_thread) {
    int64_t parts = npk_min((int64_t)threads * a_thread, size / LEAST_PART);
    parts = npk_min(parts < threads ? threads : parts, npk_ceil_div(size, unit));
    return npk_round_up(npk_ceil_div(size, parts), unit);
}

int gemm_useful_threads(const gemm_args *g, int threads) {
    double work = (double)g->m * (double)g->n * (double)g->k / MIN_WORK_PER_THREAD;
    return work < threads ? (work < 1 ? 1 : (int)work) : threads;
}

/* Columns of a product whose B is packed once for all threads. */
typedef struct {
    const gemm_ctx *ctx;
    const gemm_args *g; /* of these columns */
    int64_t across;     /* tasks side by side */
    float *packed;
} pack_job;

static void run_pack(void *context, int64_t task) {
    const pack_job *x = context;
    int64_t step_k = gemm_block_k(x->ctx, x->g->k), pc = task / x->across * step_k, j = task % x->across * SHARED_COLS;
    int64_t kc = npk_min(step_k, x->g->k - pc);
    gemm_pack_columns(x->ctx, x->g, j, npk_min(SHARED_COLS, x->g->n - j), pc, kc,
                      x->packed + pc * npk_round_up(x->g->n, x->ctx->nr) + j * kc);
}

static int64_t shared_columns(const gemm_ctx *ctx, const gemm_args *g) {
    return npk_min(SHARED_FLOATS / g->k, npk_round_up(g->n, ctx->nr)) / ctx->nr * ctx->nr;
}

/* Many rows of A: shared out, after B has been packed, likewise by all, some columns at a time. */
static int run_shared(const gemm_ctx *ctx, const gemm_args *g, int c_type, int threads) {
    int64_t cols = shared_columns(ctx, g), size = c_type == NPK_GEMM_F32 ? 4 : 2;
    int64_t parts = npk_min((int64_t)threads * PARTS_PER_THREAD, npk_ceil_div(g->m, SHARED_ROWS));
    float *packed = gemm_scratch(GEMM_SHARED, cols * g->k);
    if (!packed)
        return NPK_ENOMEM;
    for (int64_t j = 0; j < g->n; j += cols) {
        gemm_args s = part_of(g, 0, g->m, j, npk_min(cols, g->n - j));
        pack_job pack = {ctx, &s, npk_ceil_div(s.n, SHARED_COLS), packed};
        npk_parallel(threads, npk_ceil_div(g->k, gemm_block_k(ctx, g->k)) * pack.across, run_pack, &pack);
        s.panels = NULL;
        s.packed_b = packed;
        s.packed_n = s.n;
        s.first_col = 0;
        s.c = (float *)((char *)g->c + j * g->csc * size);
        job x = {.ctx = ctx, .whole = &s, .c_type = c_type, .across = 1, .status = NPK_OK};
        x.rows = npk_round_up(npk_ceil_div(g->m, parts), ctx->mr);
        x.cols = s.n;
        if (c_type != NPK_GEMM_F32) {
            x.cols = npk_min(s.n, npk_round_up(RESULT_COLS, ctx->nr));
            x.across = npk_ceil_div(s.n, x.cols);
        }
        npk_parallel(threads, npk_ceil_div(g->m, x.rows) * x.across, run_part, &x);
        if (x.status != NPK_OK)
            return x.status;
    }
    return NPK_OK;
}

/* Whether rows are enough for all threads, and columns not so few that A would be packed for them again and again. */
static bool is_shared(const gemm_ctx *ctx, const gemm_args *g, int threads) {
    bool large = (double)g->m * (double)g->n * (double)g->k >= SHARED_WORK;
    return threads > 1 && large && !g->packed_b && g->m >= (int64_t)threads * SHARED_ROWS
           && shared_columns(ctx, g) >= npk_min(SHARED_COLS, g->n);
}

int gemm_run(const gemm_ctx *ctx, const gemm_args *g, int c_type, int threads) {
    int useful = gemm_useful_threads(g, threads);
    if (c_type == NPK_GEMM_F32 && useful <= 1)
        return gemm_multiply(ctx, g);
    if (is_shared(ctx, g, useful))
        return run_shared(ctx, g, c_type, useful);
    bool long_runs = !g->packed_b && !g->panels && g->b.cs == 1 && g->m <= LONG_RUN_ROWS;
    job x = {.ctx = ctx, .whole = g, .c_type = c_type, .rows = g->m, .cols = g->n, .status = NPK_OK};
    if (useful > 1 && g->m >= g->n)
        x.rows = part_size(g->m, ctx->mr, useful, PARTS_PER_THREAD);
    else if (useful > 1)
        x.cols = part_size(g->n, ctx->nr, useful, long_runs ? 1 : PARTS_PER_THREAD);
    if (c_type != NPK_GEMM_F32) {
        x.rows = npk_min(x.rows, npk_round_up(RESULT_ROWS, ctx->mr));
        x.cols = npk_min(x.cols, npk_round_up(RESULT_COLS, ctx->nr));
    }
    x.across = npk_ceil_div(g->n, x.cols);
    npk_parallel(useful, npk_ceil_div(g->m, x.rows) * x.across, run_part, &x);
    return x.status;
}

/* The same product seen as C^T = B^T A^T. */
static gemm_args transposed(const gemm_args *g) {
    return (gemm_args){.m = g->n,
                       .n = g->m,
                       .k = g->k,
                       .a = {g->b.data, g->b.cs, g->b.rs, g->b.type},
                       .b = {g->a.data, g->a.cs, g->a.rs, g->a.type},
                       .c = g->c,
                       .rsc = g->csc,
                       .csc = g->rsc};
}

bool gemm_spans_fit(int64_t rows, int64_t cols, int64_t rs, int64_t cs) {
    int64_t down, across, span, bytes, elements;
    if (rs == INT64_MIN || cs == INT64_MIN) /* has no magnitude */
        return false;
    return !__builtin_mul_overflow(rows, rs < 0 ? -rs : rs, &down)
           && !__builtin_mul_overflow(cols, cs < 0 ? -cs : cs, &across)
           && !__builtin_add_overflow(down, across, &span)
           && !__builtin_mul_overflow(span, (int64_t)sizeof(float), &bytes)
           && !__builtin_mul_overflow(rows, cols, &elements)
           && !__builtin_mul_overflow(elements, (int64_t)sizeof(float), &bytes);
}

const gemm_ctx *gemm_context(int isa) {
    switch (isa) {
    case NPK_GENERIC: return gemm_ctx_generic();
    case NPK_AVX2: return gemm_ctx_avx2();
    case NPK_AVX512: return gemm_ctx_avx512();
    default: return NULL;
    }
}

static void fill_zero(const gemm_args *g, int c_type) {
    for (int64_t i = 0; i < g->m; i++)
        for (int64_t j = 0; j < g->n; j++) {
            if (c_type == NPK_GEMM_F32)
                g->c[i * g->rsc + j * g->csc] = 0.0f;
            else
                ((uint16_t *)g->c)[i * g->rsc + j] = 0;
        }
}

static bool known_type(int type) { return type >= NPK_GEMM_F32 && type <= NPK_GEMM_BF16; }

/* Sizes, spans and instruction set; `ctx` is set when NPK_OK is returned. */
static int check(int isa, const gemm_args *g, int c_type, int threads, const gemm_ctx **ctx) {
    if (isa < NPK_GENERIC || isa > NPK_AVX512 || g->m < 0 || g->n < 0 || g->k < 0 || threads < 1)
        return NPK_EINVAL;
    if (!known_type(g->a.type) || !known_type(g->b.type) || !known_type(c_type))
        return NPK_EINVAL;
    if (c_type != NPK_GEMM_F32 && g->csc != 1)
        return NPK_EINVAL;
    if (!gemm_spans_fit(g->m, g->k, g->a.rs, g->a.cs) || !gemm_spans_fit(g->k, g->n, g->b.rs, g->b.cs)
        || !gemm_spans_fit(g->m, g->n, g->rsc, g->csc))
        return NPK_EOVERFLOW;
    *ctx = gemm_context(isa);
    return *ctx ? NPK_OK : NPK_EUNSUPPORTED;
}

static int product(const gemm_ctx *ctx, const gemm_args *g, int c_type, int threads) {
    if (g->m == 0 || g->n == 0)
        return NPK_OK;
    if (!g->c || (g->k > 0 && (!g->a.data || (!g->b.data && !g->packed_b))))
        return NPK_EINVAL;
    if (g->k == 0) {
        fill_zero(g, c_type);
        return NPK_OK;
    }
    gemm_args t = transposed(g);
    if (gemm_is_dots(ctx, g))
        return gemm_dots(ctx, g, c_type, threads);
    if (!g->packed_b && gemm_is_dots(ctx, &t))
        return gemm_dots(ctx, &t, c_type, threads);
    /* Micro-kernels write along rows; a column-major or one-column C is turned over. */
    if (g->rsc == 1 && (g->csc != 1 || g->n == 1) && !g->packed_b && c_type == NPK_GEMM_F32)
        return gemm_run(ctx, &t, c_type, threads);
    return gemm_run(ctx, g, c_type, threads);
}

/* Whether the addresses between the first and the last element of a factor meet those of a dense C. */
static bool reaches(const gemm_args *g, int64_t rows, int64_t cols, const gemm_matrix *x) {
    if (!x->data || rows == 0 || cols == 0)
        return false;
    int64_t down = (rows - 1) * x->rs, across = (cols - 1) * x->cs, size = (int64_t)sizeof(float);
    int64_t low = npk_min(down, 0) + npk_min(across, 0), count = down + across - 2 * low + 1;
    return npk_overlap((const void *)((uintptr_t)x->data + (uintptr_t)(low * size)), count * size, g->c,
                       g->m * g->n * size);
}

int npk_sgemm(int isa, int64_t m, int64_t n, int64_t k, const float *a, int64_t rsa, int64_t csa, const float *b,
              int64_t rsb, int64_t csb, float *c, int64_t rsc, int64_t csc, int threads) {
    gemm_args g = {.m = m, .n = n, .k = k, .a = {a, rsa, csa, NPK_GEMM_F32}, .b = {b, rsb, csb, NPK_GEMM_F32},
                   .c = c, .rsc = rsc, .csc = csc};
    const gemm_ctx *ctx;
    int status = check(isa, &g, NPK_GEMM_F32, threads, &ctx);
    if (status != NPK_OK)
        return status;
    bool dense = csc == 1 && rsc == n;
    if (dense && (reaches(&g, m, k, &g.a) || reaches(&g, k, n, &g.b)))
        return NPK_EALIAS;
    return product(ctx, &g, NPK_GEMM_F32, threads);
}

/* Products of a batch: small ones are shared out whole, large ones one after the other in parts. */
typedef struct {
    const gemm_ctx *ctx;
    gemm_args first;
    int64_t bsa, bsb, bsc;
    int c_type, threads;
    _Atomic int status;
} batch_job;

static void run_product(void *context, int64_t task) {
    batch_job *x = context;
    gemm_args g = x->first;
    int64_t size = x->c_type == NPK_GEMM_F32 ? 4 : 2;
    gemm_matrix a = {g.a.data, x->bsa, 0, g.a.type}, b = {g.b.data, x->bsb, 0, g.b.type};
    g.a.data = g.a.data ? gemm_at(&a, task, 0) : NULL;
    g.b.data = g.b.data ? gemm_at(&b, task, 0) : NULL;
    g.c = g.c ? (float *)((char *)g.c + task * x->bsc * size) : NULL;
    int status = product(x->ctx, &g, x->c_type, x->threads);
    if (status != NPK_OK)
        x->status = status;
}

int npk_gemm(int isa, int64_t batch, int64_t m, int64_t n, int64_t k, int a_type, const void *a, int64_t bsa,
             int64_t rsa, int64_t csa, int b_type, const void *b, int64_t bsb, int64_t rsb, int64_t csb, int c_type,
             void *c, int64_t bsc, int64_t rsc, int64_t csc, int threads) {
    gemm_args g = {.m = m, .n = n, .k = k, .a = {a, rsa, csa, a_type}, .b = {b, rsb, csb, b_type},
                   .c = c, .rsc = rsc, .csc = csc};
    batch_job x = {.first = g, .bsa = bsa, .bsb = bsb, .bsc = bsc, .c_type = c_type, .threads = 1, .status = NPK_OK};
    int status = batch < 0 ? NPK_EINVAL : check(isa, &g, c_type, threads, &x.ctx);
    if (status != NPK_OK)
        return status;
    if (!gemm_spans_fit(batch, m, bsa, rsa) || !gemm_spans_fit(batch, k, bsb, rsb)
        || !gemm_spans_fit(batch, m, bsc, rsc))
        return NPK_EOVERFLOW;
    bool small = (double)m * (double)n * (double)k < 2 * MIN_WORK_PER_THREAD * threads;
    if (small && batch > 1) {
        int useful = (double)m * (double)n * (double)k * (double)batch < MIN_WORK_PER_THREAD ? 1 : threads;
        npk_parallel(useful, batch, run_product, &x);
    } else {
        x.threads = threads;
        npk_parallel(1, batch, run_product, &x);
    }
    return x.status;
}

int64_t npk_gemm_packed_size(int isa, int64_t n, int64_t k) {
    const gemm_ctx *ctx = gemm_context(isa);
    int64_t count, bytes;
    if (!ctx || n < 0 || k < 0 || n > INT64_MAX - ctx->nr
        || __builtin_mul_overflow(npk_round_up(n, ctx->nr), k, &count)
        || __builtin_mul_overflow(count, (int64_t)sizeof(float), &bytes))
        return -1;
    return count;
}

int npk_gemm_pack(int isa, int64_t n, int64_t k, int b_type, const void *b, int64_t rsb, int64_t csb, float *packed) {
    const gemm_ctx *ctx = gemm_context(isa);
    if (isa < NPK_GENERIC || isa > NPK_AVX512 || n < 0 || k < 0 || !known_type(b_type))
        return NPK_EINVAL;
    if (!ctx)
        return NPK_EUNSUPPORTED;
    if (npk_gemm_packed_size(isa, n, k) < 0 || !gemm_spans_fit(k, n, rsb, csb))
        return NPK_EOVERFLOW;
    if (n == 0 || k == 0)
        return NPK_OK;
    if (!b || !packed)
        return NPK_EINVAL;
    gemm_matrix matrix = {b, rsb, csb, b_type};
    gemm_pack_b(ctx, n, k, &matrix, packed);
    return NPK_OK;
}

int npk_gemm_packed(int isa, int64_t m, int64_t n, int64_t k, int a_type, const void *a, int64_t rsa, int64_t csa,
                    const float *packed, int c_type, void *c, int64_t rsc, int64_t csc, int threads) {
    gemm_args g = {.m = m, .n = n, .k = k, .a = {a, rsa, csa, a_type}, .b = {NULL, n, 1, NPK_GEMM_F32},
                   .packed_b = packed, .packed_n = n, .c = c, .rsc = rsc, .csc = csc};
    const gemm_ctx *ctx;
    int status = check(isa, &g, c_type, threads, &ctx);
    return status != NPK_OK ? status : product(ctx, &g, c_type, threads);
}

/* One product on one thread: which blocks are packed, and in which order tiles are computed. */
#include "gemm.h"

enum {
    STEPS = 16,        /* blocks of k are whole cache lines of a matrix whose lines run along k */
    STRIP_ROWS = 8,    /* B is streamed in the order of memory for at most so many rows of A, */
    HALF_ROWS = 16,    /* or so many when it has 16 bits: packing would write and read twice as much */
    STRIP_STEPS = 8,   /* rows of B read at once, at most */
    STRIP_COLS = 512,  /* and columns: 16 KiB, half of L1; */
    LONG_STRIP = 4096, /* or, for few rows, long runs of memory */
    LONG_ROWS = 4,
    SMALL_B = 64 * 64, /* elements of B up to which it is read in place */
    LONG_RUN = 2048,   /* columns of a row-major B packed at once: long runs of its rows stream best */
    FEW_COLS = 512,    /* columns that reread A too seldom to pay for packing it; a block of B in L2 */
    COLUMNS = 32,      /* columns of C finished at a time by multiply_columns */
    NARROW = 128,      /* columns of C that A meets a panel at a time */
    PAGE = 1024,       /* floats after which rows map to the same set of L1 */
};

/* Splits `size` into equal blocks of at most `limit`, each a multiple of `unit`: 1.1 blocks become
 * two of 0.55, not one full and one thin. Depends on the shape only. */
static int64_t even_block(int64_t size, int64_t limit, int64_t unit) {
    int64_t blocks = npk_ceil_div(size, limit);
    return npk_round_up(npk_ceil_div(size, blocks), unit);
}

int64_t gemm_block_k(const gemm_ctx *ctx, int64_t k) { return even_block(k, ctx->kc, STEPS); }

int gemm_tile_rows(int64_t left, int mr) {
    if (left <= mr)
        return (int)left;
    return left < 2 * mr ? (int)((left + 1) / 2) : mr;
}

/* A block as the tiles read it: panel q of rows from `data + q * step`. */
typedef struct {
    const float *data;
    int64_t rsa;   /* 0: packed */
    int64_t rsb;   /* of B */
    int64_t b_step; /* from one panel of nr columns to the next */
    const float *b;
} blocks;

/* c (mode)= tile for tiles the micro-kernel cannot write itself: columns apart. */
static void store_tile(const float *tile, int64_t rows, int64_t cols, int nr, float *c, int64_t rsc, int64_t csc,
                       tile_mode mode) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            float *dst = c + i * rsc + j * csc;
            *dst = mode == TILE_ADD ? *dst + tile[i * nr + j] : tile[i * nr + j];
        }
}

/* Block of A (mc x kc) times block of B (kc x nc). */
static void macro_kernel(const gemm_ctx *ctx, const blocks *x, int64_t mc, int64_t nc, int64_t kc, float *c,
                         int64_t rsc, int64_t csc, tile_mode mode) {
    _Alignas(64) float buffer[GEMM_MAX_MR * GEMM_MAX_NR];
    const float *b = x->b;
    for (int64_t j = 0; j < nc; j += ctx->nr, b += x->b_step) {
        int64_t cols = npk_min(ctx->nr, nc - j);
        const float *a = x->data;
        for (int64_t i = 0, rows; i < mc; i += rows) {
            rows = gemm_tile_rows(mc - i, ctx->mr);
            float *dst = c + i * rsc + j * csc;
            if (csc == 1) {
                ctx->tile[rows - 1](kc, a, x->rsa, b, x->rsb, dst, rsc, cols, mode);
            } else {
                ctx->tile[rows - 1](kc, a, x->rsa, b, x->rsb, buffer, ctx->nr, cols, TILE_STORE);
                store_tile(buffer, rows, cols, ctx->nr, dst, rsc, csc, mode);
            }
            a += x->rsa ? rows * x->rsa : ctx->mr * kc;
        }
    }
}

static void pack_a(const gemm_ctx *ctx, const gemm_args *g, int64_t ic, int64_t mc, int64_t pc, int64_t kc,
                   float *dst) {
    for (int64_t i = 0, rows; i < mc; i += rows, dst += ctx->mr * kc) {
        rows = gemm_tile_rows(mc - i, ctx->mr);
        if (g->lines)
            gemm_pack_lines(ctx, ctx->mr, (int)rows, kc, g->lines, g->first_line + ic + i, pc, dst);
        else
            gemm_pack_panel(ctx, ctx->mr, (int)rows, kc, g->a.type, gemm_at(&g->a, ic + i, pc), g->a.rs, g->a.cs, dst);
    }
}

/* Whether tiles read rows of A, in place or, if they have 16 bits, widened. They must not share sets of the cache, unless
 * few are read often. */
static bool a_as_rows(const gemm_ctx *ctx, const gemm_args *g) {
    if (ctx->packs_all || g->lines || g->a.cs != 1 || g->a.rs == 0)
        return false;
    return g->m <= 2 * ctx->mr || g->n <= NARROW
           || (g->a.type == NPK_GEMM_F32 && g->a.rs % PAGE != 0 && g->n <= FEW_COLS);
}

static bool b_as_rows(const gemm_ctx *ctx, const gemm_args *g) {
    if (ctx->packs_all || g->packed_b || g->panels || g->b.cs != 1)
        return false;
    bool in_place = g->b.type == NPK_GEMM_F32;
    return (in_place && g->m <= ctx->mr) || (g->n * g->k <= SMALL_B && (!in_place || g->b.rs % PAGE != 0));
}

/* Columns of B that are packed before they meet A. Where A is one block, they need not wait in L3 for the next. */
static int64_t columns_at_once(const gemm_ctx *ctx, const gemm_args *g) {
    if (g->packed_b || g->m > ctx->mc)
        return ctx->nc;
    if (g->b.cs == 1)
        return npk_round_up(LONG_RUN, ctx->nr);
    return g->b.rs == 1 && g->m <= 2 * ctx->mr ? ctx->nr : npk_round_up(FEW_COLS, ctx->nr);
}

/* The five loops of Goto's algorithm; the two innermost are macro_kernel. Where A is one block, B is
 * packed in pieces that stay in L2: nothing but A is read twice. */
static int multiply_blocks(const gemm_ctx *ctx, const gemm_args *g) {
    bool rows_a = a_as_rows(ctx, g), rows_b = b_as_rows(ctx, g);
    bool direct_a = rows_a && g->a.type == NPK_GEMM_F32, direct_b = rows_b && g->b.type == NPK_GEMM_F32;
    int64_t step_k = gemm_block_k(ctx, g->k);
    /* Few columns: a panel of A is read, or packed, just before it meets all of them. */
    int64_t mc_max = g->n <= NARROW ? ctx->mr : even_block(g->m, ctx->mc, ctx->mr);
    int64_t nc_max = even_block(g->n, columns_at_once(ctx, g), ctx->nr);
    /* Rows shared out evenly between the last tiles may need one more panel than full tiles would. */
    int64_t a_size = direct_a ? 0 : npk_round_up((mc_max + ctx->mr) * step_k, 16);
    int64_t b_size = direct_b || g->packed_b ? 0 : nc_max * step_k;
    float *a_block = NULL, *b_block = NULL;
    if (a_size + b_size) {
        a_block = gemm_scratch(GEMM_PACKING, a_size + b_size);
        if (!a_block)
            return NPK_ENOMEM;
        b_block = a_block + a_size;
    }
    for (int64_t jc = 0; jc < g->n; jc += nc_max) {
        int64_t nc = npk_min(nc_max, g->n - jc);
        for (int64_t pc = 0; pc < g->k; pc += step_k) {
            int64_t kc = npk_min(step_k, g->k - pc);
            blocks x = {.rsb = ctx->nr, .b_step = ctx->nr * kc, .b = b_block};
            if (g->packed_b) {
                x.b = g->packed_b + pc * npk_round_up(g->packed_n, ctx->nr) + (g->first_col + jc) * kc;
            } else if (direct_b) {
                x.b = gemm_at(&g->b, pc, jc);
                x.b_step = ctx->nr;
                x.rsb = g->b.rs;
            } else if (rows_b) {
                ctx->widen(g->b.type, kc, nc, gemm_at(&g->b, pc, jc), g->b.rs, b_block, nc);
                x.b_step = ctx->nr;
                x.rsb = nc;
            } else {
                gemm_pack_columns(ctx, g, jc, nc, pc, kc, b_block);
            }
            for (int64_t ic = 0; ic < g->m; ic += mc_max) {
                int64_t mc = npk_min(mc_max, g->m - ic);
                if (direct_a) {
                    x.data = gemm_at(&g->a, ic, pc);
                    x.rsa = g->a.rs;
                } else if (rows_a) {
                    ctx->widen(g->a.type, mc, kc, gemm_at(&g->a, ic, pc), g->a.rs, a_block, kc);
                    x.data = a_block;
                    x.rsa = kc;
                } else {
                    pack_a(ctx, g, ic, mc, pc, kc, a_block);
                    x.data = a_block;
                }
                macro_kernel(ctx, &x, mc, nc, kc, g->c + ic * g->rsc + jc * g->csc, g->rsc, g->csc,
                             pc ? TILE_ADD : TILE_STORE);
            }
        }
    }
    return NPK_OK;
}

/* `steps` rows of B from row p on, times all rows of A. */
static void strip(const gemm_ctx *ctx, const gemm_args *g, const float *a, int64_t p, int64_t steps, float *c,
                  int64_t rsc, tile_mode mode) {
    _Alignas(64) float wide[STRIP_STEPS * STRIP_COLS];
    int64_t groups = npk_ceil_div(g->m, npk_min(ctx->mr, GEMM_STRIP_ROWS)), most = npk_ceil_div(g->m, groups);
    bool halves = g->b.type != NPK_GEMM_F32;
    int64_t widened = halves && ctx->half_strip ? g->n / GEMM_HALF_COLS * GEMM_HALF_COLS : 0; /* in registers */
    int64_t most_cols = g->m <= LONG_ROWS && (!halves || widened) ? LONG_STRIP : STRIP_COLS;
    for (int64_t j = 0, cols; j < g->n; j += cols) {
        cols = npk_min(most_cols, (j < widened ? widened : g->n) - j);
        int64_t rsb = g->b.rs;
        const void *b = gemm_at(&g->b, p, j);
        if (halves && j >= widened) {
            ctx->widen(g->b.type, steps, cols, b, rsb, wide, STRIP_COLS);
            b = wide;
            rsb = STRIP_COLS;
        }
        for (int64_t i = 0, rows; i < g->m; i += rows) {
            rows = npk_min(most, g->m - i);
            const float *x = a + i * g->k + p;
            float *dst = c + i * rsc + j;
            if (j < widened)
                ctx->half_strip[rows - 1](g->b.type, steps, x, g->k, b, rsb, dst, rsc, cols, mode);
            else
                ctx->strip[rows - 1](steps, x, g->k, b, rsb, dst, rsc, cols, mode);
        }
    }
}

/* Few rows of A: B is read once, in the order of memory, and the rows of C wait in L2. */
static int multiply_strips(const gemm_ctx *ctx, const gemm_args *g) {
    int64_t step_k = gemm_block_k(ctx, g->k), c_size = g->k > step_k ? g->m * g->n : 0;
    float *a = gemm_scratch(GEMM_PACKING, npk_round_up(g->m * g->k, 16) + c_size);
    if (!a)
        return NPK_ENOMEM;
    float *sums = a + npk_round_up(g->m * g->k, 16);
    /* More rows of C leave less of L1 to rows of B, which may share its sets. */
    int64_t steps = g->m <= STRIP_STEPS / 2 ? STRIP_STEPS : STRIP_STEPS - 2;
    for (int64_t i = 0; i < g->m; i++)
        gemm_pack_panel(ctx, 1, 1, g->k, g->a.type, gemm_at(&g->a, i, 0), g->a.rs, g->a.cs, a + i * g->k);
    for (int64_t pc = 0; pc < g->k; pc += step_k) {
        int64_t end = npk_min(pc + step_k, g->k);
        float *c = pc ? sums : g->c;
        int64_t rsc = pc ? g->n : g->rsc;
        for (int64_t p = pc; p < end; p += steps)
            strip(ctx, g, a, p, npk_min(steps, end - p), c, rsc, p > pc ? TILE_CONTINUE : TILE_STORE);
        if (pc)
            for (int64_t i = 0; i < g->m; i++)
                for (int64_t j = 0; j < g->n; j++)
                    g->c[i * g->rsc + j] += sums[i * g->n + j];
    }
    return NPK_OK;
}

/* Few rows of A and contiguous columns of B: most of C, a few columns at a time. */
static int64_t multiply_columns(const gemm_ctx *ctx, const gemm_args *g) {
    int64_t step_k = gemm_block_k(ctx, g->k), done = 0;
    for (int64_t j = 0; j < g->n; j += COLUMNS) {
        int64_t cols = npk_min(COLUMNS, g->n - j);
        for (int64_t pc = 0; pc < g->k; pc += step_k)
            done = j
                   + ctx->columns(g->b.type, (int)g->m, cols, npk_min(step_k, g->k - pc), gemm_at(&g->a, 0, pc),
                                  g->a.rs, gemm_at(&g->b, pc, j), g->b.cs, g->c + j, g->rsc, pc > 0);
    }
    return done;
}

/* The same rows of A as floats along k. */
static bool rows_along_k(const gemm_ctx *ctx, const gemm_args *g, gemm_matrix *rows) {
    *rows = g->a;
    if (g->a.type == NPK_GEMM_F32 && g->a.cs == 1)
        return true;
    float *a = gemm_scratch(GEMM_ROWS, g->m * g->k);
    for (int64_t i = 0; a && i < g->m; i++)
        gemm_pack_panel(ctx, 1, 1, g->k, g->a.type, gemm_at(&g->a, i, 0), g->a.rs, g->a.cs, a + i * g->k);
    *rows = (gemm_matrix){a, g->k, 1, NPK_GEMM_F32};
    return a != NULL;
}

/* Few rows of A, which tiles then read in place: packing them again for every few columns would show. */
static int multiply_few_rows(const gemm_ctx *ctx, const gemm_args *g) {
    gemm_args few = *g;
    bool columns = ctx->columns && g->m > GEMM_DOT_ROWS && g->m <= GEMM_COLUMN_ROWS && !g->packed_b && !g->panels
                   && g->b.rs == 1 && g->b.cs != 1 && g->csc == 1;
    if (!rows_along_k(ctx, g, &few.a))
        return NPK_ENOMEM;
    if (columns) {
        int64_t done = multiply_columns(ctx, &few);
        few.n -= done;
        few.b.data = gemm_at(&g->b, 0, done);
        few.c += done;
    }
    return few.n ? multiply_blocks(ctx, &few) : NPK_OK;
}

int gemm_multiply(const gemm_ctx *ctx, const gemm_args *g) {
    bool in_registers = g->b.type != NPK_GEMM_F32 && ctx->half_strip, made = g->packed_b || g->lines || g->panels;
    bool few_rows = g->m <= (in_registers ? HALF_ROWS : STRIP_ROWS);
    if (few_rows && !made && g->b.cs == 1 && g->csc == 1 && g->n * g->k > SMALL_B)
        return multiply_strips(ctx, g);
    if (g->m <= 2 * ctx->mr && !g->lines && !ctx->packs_all)
        return multiply_few_rows(ctx, g);
    return multiply_blocks(ctx, g);
}

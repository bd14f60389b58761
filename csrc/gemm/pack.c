#include "gemm.h"

#include <string.h>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

enum {
    CHUNK = 64, /* steps converted at a time; CHUNK * GEMM_MAX_NR floats stay in L1 */
    ROWS = 8,   /* rows of B read at once */
};

/* dst[p * width + i] = x[i * si + p] for 4 lines and 4 steps: reads and writes are both contiguous. */
NPK_INLINE void transpose4(const float *x, int64_t si, float *dst, int width) {
#if defined(__SSE2__) /* part of every x86-64 */
    __m128 r0 = _mm_loadu_ps(x), r1 = _mm_loadu_ps(x + si);
    __m128 r2 = _mm_loadu_ps(x + 2 * si), r3 = _mm_loadu_ps(x + 3 * si);
    _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
    _mm_storeu_ps(dst, r0);
    _mm_storeu_ps(dst + width, r1);
    _mm_storeu_ps(dst + 2 * width, r2);
    _mm_storeu_ps(dst + 3 * width, r3);
#else
    for (int i = 0; i < 4; i++)
        for (int p = 0; p < 4; p++)
            dst[p * width + i] = x[i * si + p];
#endif
}

/* One full panel. `width` is a constant of at least 4 at every call, so the inner loops unroll. */
NPK_INLINE void pack_full(const int width, int64_t len, const float *x, int64_t si, int64_t sp, float *dst) {
    int64_t p = 0;
    if (si == 1) { /* lines are adjacent in memory: whole vectors move */
        for (; p < len; p++)
            memcpy(dst + p * width, x + p * sp, (size_t)width * sizeof(float));
        return;
    }
    if (sp == 1) {
        for (; p + 4 <= len; p += 4) {
            NPK_UNROLL
            for (int i = 0; i + 4 <= width; i += 4)
                transpose4(x + i * si + p, si, dst + p * width + i, width);
            if (width % 4 != 0) /* the last four lines, two of them a second time */
                transpose4(x + (width - 4) * si + p, si, dst + p * width + width - 4, width);
        }
    }
    for (; p < len; p++) {
        NPK_UNROLL
        for (int i = 0; i < width; i++)
            dst[p * width + i] = x[i * si + p * sp];
    }
}

/* A panel with fewer lines than its width, or of a width that is nobody's tile. */
static void pack_edge(int width, int lines, int64_t len, const float *x, int64_t si, int64_t sp, float *dst) {
    for (int64_t p = 0; p < len; p++)
        for (int i = 0; i < width; i++)
            dst[p * width + i] = i < lines ? x[i * si + p * sp] : 0.0f;
}

static void pack_floats(const gemm_ctx *ctx, int width, int lines, int64_t len, const float *x, int64_t si, int64_t sp,
                        float *dst) {
    if (lines < width) {
        pack_edge(width, lines, len, x, si, sp, dst);
        return;
    }
    if (ctx->transpose && sp == 1 && si != 1 && (width == 16 || width == 32)) {
        ctx->transpose(NPK_GEMM_F32, width, len, x, si, dst);
        return;
    }
    switch (width) {
    case 4: pack_full(4, len, x, si, sp, dst); break;
    case 6: pack_full(6, len, x, si, sp, dst); break;
    case 8: pack_full(8, len, x, si, sp, dst); break;
    case 14: pack_full(14, len, x, si, sp, dst); break;
    case 16: pack_full(16, len, x, si, sp, dst); break;
    case 32: pack_full(32, len, x, si, sp, dst); break;
    default: pack_edge(width, width, len, x, si, sp, dst); break;
    }
}

static void pack_halves(const gemm_ctx *ctx, int width, int lines, int64_t len, int type, const uint16_t *x,
                        int64_t si, int64_t sp, float *dst) {
    _Alignas(64) float rows[GEMM_MAX_NR * CHUNK];
    if (si == 1 && lines == width) {
        ctx->widen(type, len, width, x, sp, dst, width);
        return;
    }
    if (ctx->transpose && lines == width && sp == 1 && (width == 16 || width == 32)) {
        ctx->transpose(type, width, len, x, si, dst);
        return;
    }
    for (int64_t p = 0; p < len; p += CHUNK) {
        int64_t count = npk_min(CHUNK, len - p);
        if (sp == 1)
            ctx->widen(type, lines, count, x + p, si, rows, CHUNK);
        else
            for (int i = 0; i < lines; i++)
                for (int64_t q = 0; q < count; q++)
                    gemm_widen_generic(type, 1, 1, x + i * si + (p + q) * sp, 1, rows + i * CHUNK + q, 1);
        pack_floats(ctx, width, lines, count, rows, CHUNK, 1, dst + p * width);
    }
}

void gemm_pack_panel(const gemm_ctx *ctx, int width, int lines, int64_t len, int type, const void *x, int64_t si,
                     int64_t sp, float *dst) {
    if (type == NPK_GEMM_F32)
        pack_floats(ctx, width, lines, len, x, si, sp, dst);
    else
        pack_halves(ctx, width, lines, len, type, x, si, sp, dst);
}

void gemm_pack_lines(const gemm_ctx *ctx, int width, int lines, int64_t len, const gemm_lines *source, int64_t i,
                     int64_t p, float *dst) {
    _Alignas(64) float rows[GEMM_MAX_MR * CHUNK];
    for (int64_t q = 0; q < len; q += CHUNK) {
        int64_t count = npk_min(CHUNK, len - q);
        source->fill(source, i, lines, p + q, count, rows, CHUNK);
        pack_floats(ctx, width, lines, count, rows, CHUNK, 1, dst + q * width);
    }
}

const void *gemm_at(const gemm_matrix *x, int64_t i, int64_t j) {
    int64_t size = x->type == NPK_GEMM_F32 ? 4 : 2;
    return (const char *)x->data + (i * x->rs + j * x->cs) * size;
}

/* Row-major B is read a few rows at a time, in the order of memory. A whole panel would be as many short pieces as it
 * has steps, which share few sets of the cache where rows are a power of two apart. */
void gemm_pack_block(const gemm_ctx *ctx, int64_t n, int64_t kc, const gemm_matrix *b, float *dst) {
    int64_t copied = 0, step = b->cs == 1 ? ROWS : kc;
    if (ctx->copy && b->type == NPK_GEMM_F32 && b->cs == 1)
        copied = n / ctx->nr * ctx->nr;
    for (int64_t p = 0; p < kc; p += step) {
        int64_t len = npk_min(step, kc - p);
        if (copied)
            ctx->copy(ctx->nr, len, copied, gemm_at(b, p, 0), b->rs, dst + p * ctx->nr, kc * ctx->nr);
        for (int64_t j = copied; j < n; j += ctx->nr)
            gemm_pack_panel(ctx, ctx->nr, (int)npk_min(ctx->nr, n - j), len, b->type, gemm_at(b, p, j), b->cs, b->rs,
                            dst + j * kc + p * ctx->nr);
    }
}

void gemm_pack_columns(const gemm_ctx *ctx, const gemm_args *g, int64_t j, int64_t n, int64_t pc, int64_t kc,
                       float *dst) {
    gemm_matrix part = g->b;
    if (g->panels) {
        for (int64_t q = 0; q < n; q += ctx->nr)
            g->panels->fill(g->panels, g->first_col + j + q, pc, kc, ctx->nr, dst + q * kc);
        return;
    }
    part.data = gemm_at(&g->b, pc, j);
    gemm_pack_block(ctx, n, kc, &part, dst);
}

void gemm_pack_b(const gemm_ctx *ctx, int64_t n, int64_t k, const gemm_matrix *b, float *dst) {
    int64_t step = gemm_block_k(ctx, k);
    for (int64_t pc = 0; pc < k; pc += step) {
        gemm_matrix part = *b;
        part.data = gemm_at(b, pc, 0);
        gemm_pack_block(ctx, n, npk_min(step, k - pc), &part, dst + pc * npk_round_up(n, ctx->nr));
    }
}

/* Matrix product C = A B in single precision, in the structure of GotoBLAS and BLIS.
 *
 * Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34(3), 2008;
 * Van Zee and van de Geijn, "BLIS: A Framework for Rapidly Instantiating BLAS Functionality", ACM
 * TOMS 41(3), 2015. The loops are shared; an instruction set contributes one gemm_ctx.
 *
 * An element of C is the same sum on every path but one: k is cut into equal blocks of at most ctx->kc, each block
 * is one chain of (fused) multiply-adds in the order of p that starts from zero, and the block sums
 * are added up in order. Its bits depend on k and the instruction set only. The exception is a dot product along
 * memory, gemm_is_dots, whose order dots_simd.h gives. */
#ifndef NPK_GEMM_H
#define NPK_GEMM_H

#include "../common/npk.h"
#include "api.h"

/* A matrix: element (i, j) is data[i * rs + j * cs] in units of its type; strides may be negative or zero. */
typedef struct {
    const void *data;
    int64_t rs, cs;
    int type; /* NPK_GEMM_F32 ... */
} gemm_matrix;

struct gemm_lines;
struct gemm_panels;

typedef struct {
    int64_t m, n, k;
    gemm_matrix a, b;               /* (m, k) and (k, n) */
    const struct gemm_lines *lines; /* gives the rows of A instead of `a` when not NULL */
    int64_t first_line;             /* of this product in `lines` */
    const float *packed_b;          /* as gemm_pack_b leaves it, instead of `b`, when not NULL */
    const struct gemm_panels *panels; /* makes B, instead of `b`, when not NULL */
    int64_t packed_n, first_col;    /* columns of the whole packed B, and which is this product's first there or in
                                       `panels` */
    float *c;                       /* (m, n): c[i * rsc + j * csc], overwritten */
    int64_t rsc, csc;
} gemm_args;

/* Rows of A that lie in pieces (convolution): `fill` writes steps p ... p + len of rows i ... i + count
 * to dst[r * ld], as floats. */
typedef struct gemm_lines {
    void (*fill)(const struct gemm_lines *self, int64_t i, int64_t count, int64_t p, int64_t len, float *dst,
                 int64_t ld);
} gemm_lines;

/* A B that is made while it is packed (quantised weights): `fill` writes steps p ... p + len of columns j ... j + nr,
 * j a multiple of nr, p of 16 and columns that do not exist anything, to dst[q * nr + c]. */
typedef struct gemm_panels {
    void (*fill)(const struct gemm_panels *self, int64_t j, int64_t p, int64_t len, int nr, float *dst);
} gemm_panels;

/* What becomes of the chain of a tile. */
typedef enum {
    TILE_STORE,    /* starts from zero, overwrites c: first block of k */
    TILE_ADD,      /* starts from zero, is added to c: later blocks */
    TILE_CONTINUE, /* starts from c, overwrites c: c holds the chain so far */
} tile_mode;

/* c (mode)= sum over p < kc of a b for a tile of r rows and 1 <= cols <= nr columns, C contiguous along rows.
 *
 * rsa = 0: A is packed, a[p * MR + i]; else a[i * rsa + p]. B is b[p * rsb + j]; columns from `cols` on
 * are not touched, in C or, when rsb != nr, in B. */
typedef void (*gemm_tile)(int64_t kc, const float *a, int64_t rsa, const float *b, int64_t rsb, float *c, int64_t rsc,
                          int64_t cols, tile_mode mode);

/* The same for B of 16 bits and any number of columns that is a multiple of GEMM_HALF_COLS; A, B never packed. */
typedef void (*gemm_half_strip)(int type, int64_t kc, const float *a, int64_t rsa, const uint16_t *b, int64_t rsb,
                                float *c, int64_t rsc, int64_t cols, tile_mode mode);

/* What an instruction set contributes. */
typedef struct {
    int mr, nr;            /* register tile */
    int64_t mc, kc, nc;    /* cache blocks: A block mc x kc in L2, B panel kc x nr in L1, B block kc x nc in L3 */
    const gemm_tile *tile; /* tile[r - 1] computes r = 1 ... mr rows */
    const gemm_tile *strip; /* the same for up to GEMM_STRIP_ROWS rows, any number of columns, A and B never packed */
    const gemm_half_strip *half_strip; /* NULL where B is widened first */
    /* dst[p * width + i] = x[i * si + p] for a `width` of 16 or 32 lines of any type; NULL where plain C does it. */
    void (*transpose)(int type, int width, int64_t len, const void *x, int64_t si, float *dst);
    /* dst[j / width * step + r * width + j % width] = x[r * rs + j] for j < n, a multiple of width = nr; NULL where
     * plain C does it. */
    void (*copy)(int width, int64_t rows, int64_t n, const float *x, int64_t rs, float *dst, int64_t step);
    /* The first columns of C, for GEMM_DOT_ROWS + 1 to GEMM_COLUMN_ROWS rows of A and a B of any type whose columns
     * are contiguous, b[j * ldb + p], without packing; returns how many columns were done. NULL where there is none. */
    int64_t (*columns)(int type, int rows, int64_t n, int64_t kc, const float *a, int64_t rsa, const void *b,
                       int64_t ldb, float *c, int64_t rsc, bool add);
    /* c[i * rsc + j * csc] = dot product of a[i * rsa + p] and b[j * ldb + p] over p < k, for at most GEMM_DOT_ROWS
     * rows and n columns, B of any type. NULL where there is none. */
    void (*dots)(int type, int rows, int64_t n, int64_t k, const float *a, int64_t rsa, const void *b, int64_t ldb,
                 float *c, int64_t rsc, int64_t csc);
    /* dst[r * ld + j] = x[r * rs + j] for r < rows, j < n, from 16-bit floats; and back, ties to even. */
    void (*widen)(int type, int64_t rows, int64_t n, const uint16_t *x, int64_t rs, float *dst, int64_t ld);
    void (*narrow)(int type, int64_t rows, int64_t n, const float *x, int64_t rs, uint16_t *dst, int64_t ld);
    bool packs_all; /* compilers make vectors of packed tiles only */
} gemm_ctx;

enum { GEMM_COLUMN_ROWS = 4, GEMM_DOT_ROWS = 2, GEMM_STRIP_ROWS = 6, GEMM_HALF_COLS = 16 };
enum { GEMM_MAX_MR = 14, GEMM_MAX_NR = 32 }; /* largest of any context */

/* NULL when the build or the CPU lacks the instruction set. */
const gemm_ctx *gemm_ctx_generic(void);
const gemm_ctx *gemm_ctx_avx2(void);
const gemm_ctx *gemm_ctx_avx512(void);
const gemm_ctx *gemm_context(int isa);

/* Portable conversions, the fallback and the reference of the vector ones. */
void gemm_widen_generic(int type, int64_t rows, int64_t n, const uint16_t *x, int64_t rs, float *dst, int64_t ld);
void gemm_narrow_generic(int type, int64_t rows, int64_t n, const float *x, int64_t rs, uint16_t *dst, int64_t ld);

/* Packs a panel of `lines` <= `width` lines x `len` steps, element (i, p) at x[i * si + p * sp]:
 * dst[p * width + i]; missing lines are zero. A's lines are its rows and B's its columns, so one
 * routine serves both. */
void gemm_pack_panel(const gemm_ctx *ctx, int width, int lines, int64_t len, int type, const void *x, int64_t si,
                     int64_t sp, float *dst);

/* The same for lines i ... i + lines of `source`, steps p ... p + len. */
void gemm_pack_lines(const gemm_ctx *ctx, int width, int lines, int64_t len, const gemm_lines *source, int64_t i,
                     int64_t p, float *dst);

/* A block of B (kc, n) in panels of nr columns. */
void gemm_pack_block(const gemm_ctx *ctx, int64_t n, int64_t kc, const gemm_matrix *b, float *dst);

/* Columns j ... j + n of the block of k that starts at pc of the B of a product, however that is given. */
void gemm_pack_columns(const gemm_ctx *ctx, const gemm_args *g, int64_t j, int64_t n, int64_t pc, int64_t kc,
                       float *dst);

/* The whole of B (k, n): block pc of k at dst + pc * round_up(n, nr), in it panels of nr columns. */
void gemm_pack_b(const gemm_ctx *ctx, int64_t n, int64_t k, const gemm_matrix *b, float *dst);

/* Length of the blocks of k. */
int64_t gemm_block_k(const gemm_ctx *ctx, int64_t k);

/* Rows of the next tile of at most mr when `left` remain: the last two share what is left, 4 + 3 instead of 6 + 1. */
int gemm_tile_rows(int64_t left, int mr);

/* One product on the calling thread, for m, n, k > 0. */
int gemm_multiply(const gemm_ctx *ctx, const gemm_args *g);

/* The same on up to `threads` threads; C stored as `c_type` when that is not float. */
int gemm_run(const gemm_ctx *ctx, const gemm_args *g, int c_type, int threads);

/* Threads worth waking for a product. */
int gemm_useful_threads(const gemm_args *g, int threads);

/* Whether the product is computed as dot products along memory, which gemm_dots does; C may have any strides, also
 * where it is stored as 16 bits. */
bool gemm_is_dots(const gemm_ctx *ctx, const gemm_args *g);
int gemm_dots(const gemm_ctx *ctx, const gemm_args *g, int c_type, int threads);

/* What the calling thread keeps memory for. */
enum { GEMM_PACKING, GEMM_RESULT, GEMM_ROWS, GEMM_SHARED, GEMM_SCRATCHES };

/* Room for `count` floats, aligned to huge pages where that pays. It stays valid until the thread's next call
 * with the same `which`. NULL when there is no memory. */
float *gemm_scratch(int which, int64_t count);

/* Whether every offset i * rs + j * cs, in bytes, of a (rows, cols) matrix of 4-byte elements stays within int64. */
bool gemm_spans_fit(int64_t rows, int64_t cols, int64_t rs, int64_t cs);

/* x[i * rs + j * cs], in bytes of its type. */
const void *gemm_at(const gemm_matrix *x, int64_t i, int64_t j);

#endif

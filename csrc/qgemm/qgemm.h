/* Integer matrix product of 8-bit operands, in the structure of csrc/gemm (Goto and van de Geijn 2008).
 *
 * B is packed once into s8 panels that every instruction set reads. A kernel either multiplies such a panel as it
 * is (`direct`, which streams B once for few rows) or first expands it to what its tile wants. Zero points never
 * enter the inner loop: with r = row sums of A and s = column sums of B,
 *   sum (a - za)(b - zb) = sum a b - za s - zb r + k za zb      (Jacob et al. 2018, eq. 7). */
#ifndef NPK_QGEMM_H
#define NPK_QGEMM_H

#include "../common/npk.h"
#include "api.h"

enum {
    QGEMM_NR = 16,         /* columns of a panel */
    QGEMM_A_EXTRA = 64,    /* bytes beside a converted row of A, for what an instruction set wants to know of it */
    QGEMM_B_BYTES = 12352, /* of what tiles read of a panel, at most */
};

/* Multiplies a fixed number of rows by the columns of one panel, or of two that lie `next` bytes apart:
 * acc (+)= A B over 4 * k4 steps of k. Rows of A are `lda` bytes apart. */
typedef void (*qgemm_tile)(int64_t k4, const void *a, int64_t lda, const int8_t *b, int64_t next, int32_t *acc,
                           int64_t ldacc, bool accumulate);

/* Everything between the sums and the output, for one row. */
typedef struct {
    int kind, double_round;
    int32_t zero;
    const int32_t *offset;  /* added to every sum of a column: bias, zero points */
    const int32_t *b_zero;  /* NULL: zero */
    const float *row_scale, *scale, *float_bias;
    const int32_t *multiplier, *shift;
} qgemm_output;

/* Writes columns [j, j + n) of row i of the output; acc holds their sums. */
typedef void (*qgemm_finish)(const qgemm_output *q, int64_t i, int64_t j, int64_t n, const int32_t *acc,
                             int32_t row_sum, void *out);

/* A way to multiply panels: what A and B are made into, and the tiles that read that. */
typedef struct {
    int a_size; /* bytes of a converted element of A */
    int kc;     /* k of a block, a power of two up to 1024 */
    int stride; /* bytes between its rows of A: not a power of two, so that they fall into different cache sets */
    /* Rows of A to what tiles read, k padded with zeros to a multiple of 4. Tiles take off `zero` times the sum of a
     * row, where the context says that they can. */
    void (*convert)(int64_t rows, int64_t k, const uint8_t *a, int64_t lda, bool is_signed, int32_t zero, void *dst,
                    int64_t stride);
    /* Part of a panel to what tiles read, at most QGEMM_B_BYTES. NULL: they read panels themselves. */
    void (*expand)(int64_t k4, const int8_t *panel, void *dst);
    int mr;
    const qgemm_tile *tile;   /* tile[r - 1]: r <= mr rows, full width, rows of A `stride` bytes apart */
    const qgemm_tile *narrow; /* the same for the last columns, when they are few; NULL: there is none */
    int few;                  /* up to so many rows are better multiplied by panels as they are */
    int direct_mr;
    const qgemm_tile *direct; /* direct[r - 1]: r <= direct_mr rows of one unexpanded panel, any k */
} qgemm_way;

/* What an instruction set contributes. */
typedef struct {
    qgemm_way any;
    const qgemm_way *small; /* for u8 A and panels of small weights (npk_qgemm_pack); NULL: they are as any */
    int panels;             /* tiles have panels * 16 columns, */
    int narrow;             /* narrow ones these, at most 16 */
    int a_flip;             /* s8 A becomes u8 by adding 128: its zero point moves too */
    bool takes_zero;        /* tiles know of the zero point of B, if it is one for all columns */
    int64_t mc, nc;         /* block of the output whose sums stay in cache */
    uint32_t (*sum_row)(int64_t k, const uint8_t *a, bool is_signed);
    qgemm_finish finish;
} qgemm_ctx;

/* NULL when the build or the CPU lacks the instruction set. */
const qgemm_ctx *qgemm_ctx_generic(void);
const qgemm_ctx *qgemm_ctx_avx2(void);
const qgemm_ctx *qgemm_ctx_vnni(void);

#endif

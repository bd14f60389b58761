/* Single precision matrix product C = A B, in the structure of GotoBLAS and BLIS.
 *
 * Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34(3), 2008;
 * Van Zee and van de Geijn, "BLIS: A Framework for Rapidly Instantiating BLAS Functionality", ACM
 * TOMS 41(3), 2015. driver.c and pack.c are shared; an instruction set contributes one sgemm_ctx. */
#ifndef NPK_GEMM_H
#define NPK_GEMM_H

#include "../common/npk.h"
#include "api.h"

/* Strides count elements and may be negative or zero. */
typedef struct {
    int64_t m, n, k;
    const float *a; /* (m, k): a[i * rsa + p * csa] */
    int64_t rsa, csa;
    const float *b; /* (k, n): b[p * rsb + j * csb] */
    int64_t rsb, csb;
    float *c; /* (m, n): c[i * rsc + j * csc], overwritten */
    int64_t rsc, csc;
} sgemm_args;

/* Micro-kernel: a tile of r rows and NR columns, c (+)= sum over p < kc of a[p * MR + i] * b[p * NR + j].
 *
 * Every element is one chain of (fused) multiply-adds in the order of p that starts from zero, and
 * the chain is then stored or added to c. All tiles of one instruction set thus round alike, and an
 * element's bits do not depend on where its tile lies nor on the number of threads. */
typedef void (*sgemm_ukr)(int64_t kc, const float *a, const float *b, float *c, int64_t rsc, bool accumulate);

/* What an instruction set contributes. */
typedef struct {
    int mr, nr;          /* register tile */
    int64_t mc, kc, nc;  /* cache blocks: A block mc x kc in L2, B panel kc x nr in L1, B block kc x nc in L3 */
    const sgemm_ukr *ukr; /* ukr[r - 1] computes r = 1 ... mr rows */
} sgemm_ctx;

enum { SGEMM_MAX_TILE = 14 * 32 }; /* largest mr * nr of any context */

/* NULL when the build or the CPU lacks the instruction set. */
const sgemm_ctx *sgemm_ctx_generic(void);
const sgemm_ctx *sgemm_ctx_avx2(void);
const sgemm_ctx *sgemm_ctx_avx512(void);

/* Packs a matrix of `count` lines x `len` steps, x[i * si + p * sp], into panels of `width` lines:
 * panel q holds dst[p * width + i] for lines q * width + i; missing lines are zero. A's lines are
 * its rows and B's its columns, so one routine serves both. */
void sgemm_pack(int width, int64_t count, int64_t len, const float *x, int64_t si, int64_t sp, float *dst);

#endif

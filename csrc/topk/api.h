/* What Python calls; see topk.h. */
#ifndef NPK_TOPK_API_H
#define NPK_TOPK_API_H

#include <stdint.h>

/* The `best` largest elements of every row, descending, equal ones by index, NaN above all: values and indices
 * are (rows, best). Same bits for any thread count. */
int npk_topk(int isa, int64_t rows, int64_t cols, int64_t best, const float *x, int64_t stride_x, float *values,
             int64_t *indices, int threads);

/* Routes `tokens` tokens to the `best` of `experts` experts: scores are the softmax of a row of logits, or with
 * `sigmoid` that of each; `renormalise` divides the weights of a token by their sum, added in order. `order` lists the
 * pairs token * best + slot by expert, then by token; the pairs of expert e begin at offsets[e] (experts + 1).
 * Logits are (tokens, experts), rows stride_x elements apart; weights and chosen are (tokens, best). */
int npk_route(int isa, int sigmoid, int renormalise, int64_t tokens, int64_t experts, int64_t best, const float *logits,
              int64_t stride_x, float *weights, int64_t *chosen, int64_t *order, int64_t *offsets, int threads);

#endif

/* What Python calls; see rope.h. */
#ifndef NPK_ROPE_API_H
#define NPK_ROPE_API_H

#include <stdint.h>

/* Rotates the first 2 half elements of every head of x (tokens, heads, dim) and copies the others; token t lies
 * stride_x elements after token t - 1, heads follow each other, out is contiguous and may be x itself. Pairs are
 * (i, i + half), or (2i, 2i + 1) when `interleaved`. cosines and sines are (positions, half), position[t] is the
 * row for token t; positions out of range are refused. Same bits for any thread count. */
int npk_rope(int isa, int interleaved, int64_t tokens, int64_t heads, int64_t dim, int64_t half, const float *x,
             int64_t stride_x, const int64_t *position, int64_t positions, const float *cosines, const float *sines,
             float *out, int threads);

#endif

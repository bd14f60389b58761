/* Scores, the best of them, and the order of a grouped product. */
#include "../activation/api.h"
#include "../rows/api.h"
#include "topk.h"

#include <stdlib.h>
#include <string.h>

static void divide_by_sum(int64_t tokens, int64_t best, float *weights) {
    for (int64_t t = 0; t < tokens; t++, weights += best) {
        float sum = 0.0f;
        for (int64_t i = 0; i < best; i++)
            sum += weights[i];
        for (int64_t i = 0; i < best; i++)
            weights[i] /= sum;
    }
}

/* A counting sort: stable, so that the tokens of an expert stay in order. `next` has a place an expert. */
static void sort_by_expert(int64_t pairs, int64_t experts, const int64_t *chosen, int64_t *order, int64_t *offsets,
                           int64_t *next) {
    memset(offsets, 0, (size_t)(experts + 1) * sizeof *offsets);
    for (int64_t i = 0; i < pairs; i++)
        offsets[chosen[i] + 1]++;
    for (int64_t e = 0; e < experts; e++)
        offsets[e + 1] += offsets[e];
    memcpy(next, offsets, (size_t)experts * sizeof *next);
    for (int64_t i = 0; i < pairs; i++)
        order[next[chosen[i]]++] = i;
}

int npk_route(int isa, int sigmoid, int renormalise, int64_t tokens, int64_t experts, int64_t best, const float *logits,
              int64_t stride_x, float *weights, int64_t *chosen, int64_t *order, int64_t *offsets, int threads) {
    int64_t size;
    if (tokens < 1 || experts < 1 || best < 1 || best > experts || !logits || !weights || !chosen || !order || !offsets)
        return NPK_EINVAL;
    if (__builtin_mul_overflow(tokens, experts, &size) || size > INT64_MAX / 16)
        return NPK_EOVERFLOW;
    float *score = malloc((size_t)size * sizeof *score);
    int64_t *next = malloc((size_t)experts * sizeof *next);
    int status = NPK_ENOMEM;
    if (score && next)
        status = sigmoid ? npk_activation(isa, NPK_SIGMOID, NPK_FP32, tokens, experts, logits, stride_x, logits,
                                          stride_x, score, threads)
                         : npk_softmax(isa, NPK_FP32, 0, tokens, experts, logits, stride_x, score, threads);
    if (status == NPK_OK)
        status = npk_topk(isa, tokens, experts, best, score, experts, weights, chosen, threads);
    if (status == NPK_OK) {
        if (renormalise)
            divide_by_sum(tokens, best, weights);
        sort_by_expert(tokens * best, experts, chosen, order, offsets, next);
    }
    free(next);
    free(score);
    return status;
}

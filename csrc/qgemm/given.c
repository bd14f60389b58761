/* npk_qgemm with scales and zero points as a caller has them: checked here, and brought into its form. */
#include "qgemm.h"

#include <math.h>
#include <stdlib.h>

/* What npk_qgemm is told of the columns; all memory is in `zero`. */
typedef struct {
    int32_t *zero, *multiplier, *shift;
    float *scale;
} columns;

static bool positive(const float *x, int64_t n) {
    for (int64_t i = 0; x && i < n; i++)
        if (!(x[i] > 0.0f) || !isfinite(x[i]))
            return false;
    return true;
}

/* Zero points of B as packed, 128 less where B was unsigned; false when one is not in B's range. */
static bool take_zeros(const npk_qgemm_rule *rule, int64_t n, const void *b_zero, int64_t k, int64_t *reach,
                       int32_t *zero) {
    int32_t low = rule->b_signed ? -128 : 0, moved = rule->b_signed ? 0 : 128, least = 0, most = 0;
    for (int64_t j = 0; j < n; j++) {
        int32_t z = !b_zero                ? rule->b_zero
                    : rule->zero_kind == 4 ? ((const int32_t *)b_zero)[j]
                    : rule->zero_kind == 1 ? ((const uint8_t *)b_zero)[j]
                                           : ((const int8_t *)b_zero)[j];
        if (z < low || z > low + 255)
            return false;
        zero[j] = z - moved;
        least = zero[j] < least ? zero[j] : least;
        most = zero[j] > most ? zero[j] : most;
    }
    *reach = (127 - least > most + 128 ? 127 - least : most + 128);
    return k <= INT32_MAX;
}

/* Whether no sum of such operands leaves int32. */
static bool sums_fit(const npk_qgemm_rule *rule, int a_signed, int64_t n, int64_t k, int64_t reach,
                     const int32_t *bias) {
    int64_t low = a_signed ? -128 : 0, high = low + 255, largest = 0;
    int64_t above = high - rule->a_zero, below = rule->a_zero - low;
    for (int64_t j = 0; bias && j < n; j++) {
        int64_t size = bias[j] < 0 ? -(int64_t)bias[j] : bias[j];
        largest = size > largest ? size : largest;
    }
    return k * (above > below ? above : below) * reach + largest <= INT32_MAX;
}

/* Multiplier and shift nearest to a scale, as of TOSA 1.0; false when there are none. */
static bool fixed_point(double scale, int32_t *multiplier, int32_t *shift) {
    if (!(scale >= 0x1p-32 && scale < 0x1p29))
        return false;
    int exponent;
    double whole = rint(frexp(scale, &exponent) * 0x1p31);
    *shift = whole == 0x1p31 ? 30 - exponent : 31 - exponent;
    *multiplier = whole == 0x1p31 ? 1 << 30 : (int32_t)whole;
    return true;
}

static bool take_scales(const npk_qgemm_rule *rule, int64_t n, const float *b_scale, columns *c) {
    for (int64_t j = 0; j < n; j++) {
        float given = b_scale ? b_scale[j] : rule->b_scale;
        double real = (double)given * rule->a_scale / rule->out_scale;
        if (rule->kind == NPK_QOUT_F32)
            c->scale[j] = given;
        else if (rule->kind < NPK_QOUT_TOSA_S8)
            c->scale[j] = (float)real;
        else if (!fixed_point(real, &c->multiplier[j], &c->shift[j]))
            return false;
    }
    return true;
}

int npk_qgemm_given(int isa, const npk_qgemm_rule *rule, int64_t m, int64_t n, int64_t k, const uint8_t *a,
                    int64_t lda, int a_signed, const int8_t *packed, const int32_t *sums, const uint8_t *small,
                    const void *b_zero, const float *a_scale, const float *b_scale, const int32_t *bias,
                    const float *float_bias, void *out, int threads) {
    int64_t reach, rows, bytes;
    if (!rule || m < 0 || n < 0 || k < 0 || !positive(a_scale, m) || !positive(b_scale, n))
        return NPK_EINVAL;
    if (__builtin_add_overflow(m, 3 * (n < INT64_MAX / 64 ? n : INT64_MAX / 64) + 1, &rows)
        || __builtin_mul_overflow(rows, (int64_t)sizeof(int32_t), &bytes) || n >= INT64_MAX / 64)
        return NPK_EOVERFLOW;
    int32_t *memory = malloc((size_t)bytes);
    if (!memory)
        return NPK_ENOMEM;
    columns c = {memory, memory + n, memory + 2 * n, (float *)(memory + n)};
    float *one_scale = (float *)(memory + 3 * n);
    int status = NPK_EINVAL;
    bool fits = take_zeros(rule, n, b_zero, k, &reach, c.zero) && sums_fit(rule, a_signed, n, k, reach, bias);
    if (fits && take_scales(rule, n, b_scale, &c)) {
        bool real = rule->kind == NPK_QOUT_F32, tosa = rule->kind >= NPK_QOUT_TOSA_S8, all_zero = true;
        if (real && !a_scale && rule->a_scale != 1.0f) {
            for (int64_t i = 0; i < m; i++)
                one_scale[i] = rule->a_scale;
            a_scale = one_scale;
        }
        for (int64_t j = 0; j < n; j++)
            all_zero = all_zero && c.zero[j] == 0;
        status = npk_qgemm(isa, m, n, k, a, lda, a_signed, packed, sums, small, rule->a_zero,
                           all_zero ? NULL : c.zero, bias, rule->kind, real ? a_scale : NULL, rule->kind == NPK_QOUT_S32 ? NULL : c.scale, float_bias,
                           tosa ? c.shift : NULL, rule->double_round, rule->out_zero, out, threads);
    }
    free(memory);
    return status;
}

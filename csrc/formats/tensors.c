/* Quantised tensors as a caller has them: scales derived or decoded, then the loops of driver.c. The equations are
 * those of npukernels/quantized.py, operation by operation. */
#include "formats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const float SMALLEST_SCALE = 0x1p-126f;

/* Every row of a tensor with its scale: sizes and steps as of npk_quantize_int, checked by `valid`. */
#define FOR_EACH_ROW(t, scale_at, from, count)                                                                   \
    for (int64_t b_ = 0; b_ < (t)->blocks; b_++)                                                                  \
        for (int64_t r_ = 0, scale_at, from, count; r_ * (t)->cols < (t)->len                                     \
             && (scale_at = b_ * (t)->sb + r_ * (t)->sr, from = b_ * (t)->len + r_ * (t)->cols,                   \
                 count = npk_min((t)->cols, (t)->len - r_ * (t)->cols));                                          \
             r_++)

static bool valid(const npk_tensor *t, int64_t *count) {
    int64_t last, part, bytes;
    if (!t || t->blocks < 1 || t->len < 1 || t->cols < 1 || t->sb < 0 || t->sr < 0 || t->sc < 0 || t->sc > 1
        || t->scales < 1 || t->element < NPK_ELEMENT_INT || t->element >= NPK_FMT_COUNT || t->bits < 1 || t->bits > 8
        || t->scale_kind < NPK_SCALE_FLOAT || t->scale_kind > NPK_SCALE_FP8)
        return false;
    int64_t rows = npk_ceil_div(t->len, t->cols), cols = npk_min(t->cols, t->len);
    if (__builtin_mul_overflow(t->blocks, t->len, count) || __builtin_mul_overflow(*count, (int64_t)8, &bytes)
        || __builtin_mul_overflow(t->blocks - 1, t->sb, &last) || __builtin_mul_overflow(rows - 1, t->sr, &part)
        || __builtin_add_overflow(last, part, &last) || __builtin_add_overflow(last, (cols - 1) * t->sc, &last)
        || t->scales > INT64_MAX / 64)
        return false;
    return last < t->scales; /* every scale that is looked at exists */
}

int npk_decode_scales(int isa, int kind, float factor, int64_t n, const void *stored, float *scale) {
    if (kind == NPK_SCALE_FLOAT) {
        memcpy(scale, stored, (size_t)n * sizeof *scale);
        return NPK_OK;
    }
    int status = NPK_OK;
    if (kind == NPK_SCALE_FP8)
        status = npk_decode(isa, NPK_FMT_FP8, n, stored, scale, 1);
    else
        for (int64_t i = 0; i < n; i++) {
            uint32_t code = ((const uint8_t *)stored)[i], bits = code ? code << 23 : 0x400000; /* 2^-127 */
            bits = code == 255 ? 0x7FC00000 : bits; /* NaN */
            memcpy(scale + i, &bits, sizeof bits);
        }
    for (int64_t i = 0; i < n; i++)
        scale[i] *= factor;
    return status;
}

/* Whether every code is one of the format: those of fewer than 8 bits leave some unused. */
static bool codes_fit(const npk_tensor *t, int64_t n, const uint8_t *codes) {
    if (t->bits == 8)
        return true;
    int beyond = 0, low = t->element == NPK_ELEMENT_INT && t->low < 0 ? -(1 << (t->bits - 1)) : 0;
    for (int64_t i = 0; i < n; i++) {
        int code = low < 0 ? (int8_t)codes[i] : codes[i];
        beyond |= code < low || code >= low + (1 << t->bits);
    }
    return !beyond;
}

/* x *= scale, or x /= scale, where a scale of zero stands for a block of zeros. */
static void apply_scales(const npk_tensor *t, const float *scale, bool divide, const float *source, float *x) {
    FOR_EACH_ROW(t, at, from, count) {
        for (int64_t c = 0; c < count; c++) {
            float s = scale[at + c * t->sc];
            x[from + c] = !divide ? source[from + c] * s : source[from + c] / (s == 0.0f ? INFINITY : s);
        }
    }
}

int npk_dequantize_tensor(int isa, const npk_tensor *t, const uint8_t *codes, const void *stored, const int32_t *zero,
                          float *x, int threads) {
    int64_t n;
    if (!valid(t, &n) || !codes || !stored || !x || !codes_fit(t, n, codes))
        return NPK_EINVAL;
    float *scale = malloc((size_t)t->scales * sizeof *scale);
    int32_t *none = zero ? NULL : calloc((size_t)t->scales, sizeof *none);
    int status = scale && (zero || none) ? npk_decode_scales(isa, t->scale_kind, t->factor, t->scales, stored, scale)
                                         : NPK_ENOMEM;
    if (status == NPK_OK && t->element == NPK_ELEMENT_INT) {
        status = npk_dequantize_int(isa, t->blocks, t->len, t->cols, codes, scale, zero ? zero : none, t->sb, t->sr,
                                    t->sc, t->low < 0, x, threads);
    } else if (status == NPK_OK) {
        status = npk_decode(isa, t->element, n, codes, x, threads);
        if (status == NPK_OK)
            apply_scales(t, scale, false, x, x);
    }
    free(none);
    free(scale);
    return status;
}

/* Least and largest of each share of a scale, zero included; NaN for a share that is not finite. */
static void find_extremes(const npk_tensor *t, const float *x, float *low, float *high) {
    memset(low, 0, (size_t)t->scales * sizeof *low);
    memset(high, 0, (size_t)t->scales * sizeof *high);
    FOR_EACH_ROW(t, at, from, count) {
        for (int64_t c = 0; c < count; c++) {
            float v = x[from + c], *l = low + at + c * t->sc, *h = high + at + c * t->sc;
            if (!isfinite(v))
                *l = *h = NAN;
            *l = v < *l ? v : *l;
            *h = v > *h ? v : *h;
        }
    }
}

static float at_least_smallest(float scale) { return scale > SMALLEST_SCALE ? scale : SMALLEST_SCALE; }

/* The stored scale of a share; a zero point too when `zero` is given. False when nothing expresses it. */
static bool derive(const npk_tensor *t, int64_t i, float low, float high, void *stored, int32_t *zero) {
    float largest = -low > high ? -low : high;
    if (t->scale_kind == NPK_SCALE_E8M0) {
        int exponent = 0;
        frexpf(largest, &exponent);
        exponent -= 1 + t->emax;
        exponent = exponent < -127 ? -127 : exponent > 127 ? 127 : exponent;
        ((uint8_t *)stored)[i] = (uint8_t)(isnan(largest) ? 255 : largest > 0.0f ? exponent + 127 : 0);
        return true;
    }
    if (isnan(largest) || t->scale_kind != NPK_SCALE_FLOAT)
        return false;
    float *scale = (float *)stored + i;
    if (!zero) {
        *scale = at_least_smallest(largest / t->largest);
        return true;
    }
    *scale = at_least_smallest((float)(((double)high - low) / (t->high - t->low)));
    float point = rintf((float)t->low - low / *scale);
    zero[i] = (int32_t)(point < (float)t->low ? (float)t->low : point > (float)t->high ? (float)t->high : point);
    return true;
}

int npk_quantize_tensor(int isa, const npk_tensor *t, const float *x, uint8_t *codes, void *stored, int32_t *zero,
                        int threads) {
    int64_t n;
    if (!valid(t, &n) || !x || !codes || !stored)
        return NPK_EINVAL;
    float *low = malloc((size_t)t->scales * 2 * sizeof *low);
    int32_t *none = zero ? NULL : calloc((size_t)t->scales, sizeof *none);
    float *steps = t->element == NPK_ELEMENT_INT ? NULL : malloc((size_t)n * sizeof *steps);
    int status = low && (zero || none) && (steps || t->element == NPK_ELEMENT_INT) ? NPK_OK : NPK_ENOMEM;
    if (status == NPK_OK) {
        float *high = low + t->scales;
        find_extremes(t, x, low, high);
        for (int64_t i = 0; i < t->scales; i++)
            if (!derive(t, i, low[i], high[i], stored, zero))
                status = NPK_EINVAL;
    }
    if (status == NPK_OK)
        status = npk_decode_scales(isa, t->scale_kind, t->factor, t->scales, stored, low);
    if (status == NPK_OK && t->element == NPK_ELEMENT_INT) {
        status = npk_quantize_int(isa, t->blocks, t->len, t->cols, x, low, zero ? zero : none, t->sb, t->sr, t->sc,
                                  t->low, t->high, codes, threads);
    } else if (status == NPK_OK) {
        apply_scales(t, low, true, x, steps);
        status = npk_encode(isa, t->element, 1, n, steps, codes, threads);
    }
    free(steps);
    free(none);
    free(low);
    return status;
}

/* From sums to outputs, once for all instruction sets: plain loops that the compiler vectorises for TARGET. */
#include <math.h>

/* TOSA 1.0, apply_scale_32: value * multiplier / 2^shift rounded to nearest, ties up; with `double_round` and a
 * shift above 31 the rounding of an earlier 31-bit step is added, ties away from zero. */
TARGET NPK_INLINE int64_t apply_scale_32(int32_t value, int32_t multiplier, int32_t shift, bool double_round) {
    int64_t round = (int64_t)1 << (shift - 1);
    if (double_round && shift > 31)
        round += value >= 0 ? (int64_t)1 << 30 : -((int64_t)1 << 30);
    return ((int64_t)value * multiplier + round) >> shift;
}

/* Nearest integer, ties to even, of |x| < 2^22: adding 1.5 * 2^23 leaves no bits below one. */
TARGET NPK_INLINE int32_t round_half_even(float x) {
    const float magic = 12582912.0f;
    union {
        float f;
        int32_t i;
    } u = {x + magic};
    return u.i - 0x4B400000;
}

TARGET NPK_INLINE int32_t clamp(int32_t x, int32_t low, int32_t high) {
    return x < low ? low : x > high ? high : x;
}

TARGET NPK_INLINE void requantise(const qgemm_output *q, int64_t j, int64_t n, const int32_t *v, uint8_t *out,
                                  const int32_t low, const int32_t high) {
    /* The clamp before the rounding changes nothing: outside of it the result saturates anyway. */
    const float *scale = q->scale + j;
    const int32_t zero = q->zero;
    for (int64_t c = 0; c < n; c++) {
        float x = (float)v[c] * scale[c];
        x = x < -1024.0f ? -1024.0f : x;
        x = x > 1024.0f ? 1024.0f : x;
        out[c] = (uint8_t)clamp(round_half_even(x) + zero, low, high);
    }
}

TARGET NPK_INLINE void rescale(const qgemm_output *q, int64_t j, int64_t n, const int32_t *v, uint8_t *out,
                               const int32_t low, const int32_t high) {
    for (int64_t c = 0; c < n; c++) {
        int64_t x = apply_scale_32(v[c], q->multiplier[j + c], q->shift[j + c], q->double_round);
        /* Saturates while it is wide; the limits lie outside of every output and zero point. */
        x = x < -1024 ? -1024 : x > 1024 ? 1024 : x;
        out[c] = (uint8_t)clamp((int32_t)x + q->zero, low, high);
    }
}

TARGET NPK_INLINE void to_float(const qgemm_output *q, int64_t i, int64_t j, int64_t n, const int32_t *v,
                                float *out) {
    const float row = q->row_scale ? q->row_scale[i] : 1.0f;
    const float *scale = q->scale + j;
    if (q->float_bias) {
        const float *bias = q->float_bias + j;
        for (int64_t c = 0; c < n; c++)
            out[c] = (float)v[c] * (row * scale[c]) + bias[c];
    } else {
        for (int64_t c = 0; c < n; c++)
            out[c] = (float)v[c] * (row * scale[c]);
    }
}

TARGET static inline uint32_t sum_row(int64_t k, const uint8_t *a, bool is_signed) {
    uint32_t sum = 0;
    if (is_signed)
        for (int64_t p = 0; p < k; p++)
            sum += (uint32_t)(int8_t)a[p];
    else
        for (int64_t p = 0; p < k; p++)
            sum += a[p];
    return sum;
}

enum { FINISH_STEP = 512 };

TARGET static void finish(const qgemm_output *q, int64_t i, int64_t j, int64_t n, const int32_t *acc,
                          int32_t row_sum, void *out) {
    uint32_t sums[FINISH_STEP]; /* unsigned: wraps modulo 2^32 */
    for (int64_t done = 0; done < n; done += FINISH_STEP) {
        int64_t count = npk_min(FINISH_STEP, n - done), at = j + done;
        uint32_t *v = q->kind == NPK_QOUT_S32 ? (uint32_t *)out + done : sums;
        if (q->b_zero)
            for (int64_t c = 0; c < count; c++)
                v[c] = (uint32_t)acc[done + c] + (uint32_t)q->offset[at + c]
                       - (uint32_t)q->b_zero[at + c] * (uint32_t)row_sum;
        else
            for (int64_t c = 0; c < count; c++)
                v[c] = (uint32_t)acc[done + c] + (uint32_t)q->offset[at + c];
        const int32_t *s = (const int32_t *)v;
        switch (q->kind) {
        case NPK_QOUT_F32: to_float(q, i, at, count, s, (float *)out + done); break;
        case NPK_QOUT_S8: requantise(q, at, count, s, (uint8_t *)out + done, -128, 127); break;
        case NPK_QOUT_U8: requantise(q, at, count, s, (uint8_t *)out + done, 0, 255); break;
        case NPK_QOUT_TOSA_S8: rescale(q, at, count, s, (uint8_t *)out + done, -128, 127); break;
        case NPK_QOUT_TOSA_U8: rescale(q, at, count, s, (uint8_t *)out + done, 0, 255); break;
        default: break;
        }
    }
}

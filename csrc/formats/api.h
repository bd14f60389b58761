/* What Python calls; see formats.h. */
#ifndef NPK_FORMATS_API_H
#define NPK_FORMATS_API_H

#include <stdint.h>

/* Number formats narrower than fp32. The first two take 2 bytes a code, the others 1. */
enum {
    NPK_FMT_FP16,
    NPK_FMT_BF16,
    NPK_FMT_FP8,
    NPK_FMT_FP8_E5M2,
    NPK_FMT_FP6,
    NPK_FMT_FP6_E3M2,
    NPK_FMT_FP4,
    NPK_FMT_COUNT,
};

/* codes[i] = x[i] rounded to `format`, ties to even; overflow saturates if `saturate`.
 * Up to `threads` threads; same bits for any number. */
int npk_encode(int isa, int format, int saturate, int64_t n, const float *x, uint8_t *codes, int threads);

/* x[i] = what codes[i] stands for. Bits above those of the format are ignored. */
int npk_decode(int isa, int format, int64_t n, const uint8_t *codes, float *x, int threads);

/* Integers with scale and zero point, `high` - `low` at most 255.
 *
 * x is `blocks` x `len`; a block is cut into rows of `cols` elements, the last of which may be shorter.
 * Element (b, r, c) has scale[b * sb + r * sr + c * sc] and zero[of the same index]; sc is 0 or 1. */
int npk_quantize_int(int isa, int64_t blocks, int64_t len, int64_t cols, const float *x, const float *scale,
                     const int32_t *zero, int64_t sb, int64_t sr, int64_t sc, int low, int high, uint8_t *codes,
                     int threads);
int npk_dequantize_int(int isa, int64_t blocks, int64_t len, int64_t cols, const uint8_t *codes, const float *scale,
                       const int32_t *zero, int64_t sb, int64_t sr, int64_t sc, int is_signed, float *x, int threads);

#endif

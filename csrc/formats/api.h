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

/* How scales are stored: floats, powers of two (E8M0), or fp8 codes. */
enum { NPK_SCALE_FLOAT = 0, NPK_SCALE_E8M0 = 1, NPK_SCALE_FP8 = 2 };

enum { NPK_ELEMENT_INT = -1 }; /* the element of an npk_tensor that is none of NPK_FMT_ */

/* A quantised tensor: how its elements lie, as of npk_quantize_int, what they are, and how its scales are stored. */
typedef struct {
    int64_t blocks, len, cols, sb, sr, sc;
    int64_t scales;           /* how many there are */
    int element, bits;        /* an NPK_FMT_ of one byte a code, or NPK_ELEMENT_INT */
    int low, high;            /* of integers: the codes that quantising gives */
    int scale_kind, emax;     /* emax: exponent of the largest element, for scales derived as E8M0 */
    float factor, largest;    /* codes of scales are times factor; scales are derived so that `largest` is reached */
} npk_tensor;

/* x = (codes - zero) * scale; zero may be NULL for 0. Refuses codes beyond `bits`. */
int npk_dequantize_tensor(int isa, const npk_tensor *tensor, const uint8_t *codes, const void *scale,
                          const int32_t *zero, float *x, int threads);

/* Codes, scales, and zero points where `zero` is given, of x. Refuses NaN and infinity unless scales are E8M0. */
int npk_quantize_tensor(int isa, const npk_tensor *tensor, const float *x, uint8_t *codes, void *scale, int32_t *zero,
                        int threads);

#endif

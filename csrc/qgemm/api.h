/* What Python calls; see qgemm.h. */
#ifndef NPK_QGEMM_API_H
#define NPK_QGEMM_API_H

#include <stdint.h>

/* What the sums become. */
enum {
    NPK_QOUT_S32 = 0,  /* v */
    NPK_QOUT_F32 = 1,  /* v * (row_scale * scale) + shift */
    NPK_QOUT_S8 = 2,   /* saturate(round_half_even(v * scale) + zero) */
    NPK_QOUT_U8 = 3,
    NPK_QOUT_TOSA_S8 = 4, /* saturate(apply_scale_32(v, multiplier, shift) + zero) */
    NPK_QOUT_TOSA_U8 = 5,
};

/* Packs B (k, n), b[p * rsb + j * csb] in bytes, for npk_qgemm: panels of 16 columns, in each of them blocks of
 * 4 k, in each the 4 bytes of column 0, of column 1, ... Missing columns and k are zero. Every byte is XORed with
 * `flip` (0x80 turns u8 into s8 minus 128). `sums`, n column sums of the packed values, may be NULL, and so may
 * `small`, one byte a panel: 1 where |b[p]| + |b[p + 1]| <= 128 for all even p, so that no u8 times them exceeds s16. */
int npk_qgemm_pack(int64_t n, int64_t k, const uint8_t *b, int64_t rsb, int64_t csb, int flip, int8_t *packed,
                   int32_t *sums, uint8_t *small, int threads);

/* out = f(v), v = sum over p of (A[i, p] - a_zero) (B[p, j] - b_zero[j]) + bias[j], by the instruction set `isa`
 * (NPK_AVX512 stands for AVX-512 VNNI). A has rows `lda` bytes apart, s8 or u8. `packed`, `sums` and `small` come
 * from npk_qgemm_pack; `sums` may be NULL when neither a_zero nor a_signed is set, `small` always. b_zero, bias (n), row_scale (m) and
 * float_bias (n) may be NULL. `scale` is float (n) or, for TOSA, the int32 multipliers, with `shift` (n).
 * Sums are modulo 2^32: right whenever v fits s32. */
int npk_qgemm(int isa, int64_t m, int64_t n, int64_t k, const uint8_t *a, int64_t lda, int a_signed,
              const int8_t *packed, const int32_t *sums, const uint8_t *small, int32_t a_zero, const int32_t *b_zero,
              const int32_t *bias, int kind, const float *row_scale, const float *scale, const float *float_bias,
              const int32_t *shift, int double_round, int32_t zero, void *out, int threads);

/* What npk_qgemm_given is told that no array says. A number is not looked at where an array is given instead; the
 * caller has checked the numbers: zero points in the range of their operand, scales positive. */
typedef struct {
    int kind, double_round;
    int b_signed;  /* of what was packed: the zero points of an unsigned B are 128 less in npk_qgemm */
    int zero_kind; /* of the array b_zero: 4 int32, 1 uint8, 0 int8 */
    int32_t a_zero, b_zero, out_zero;
    float a_scale, b_scale, out_scale;
} npk_qgemm_rule;

/* The same with scales and zero points as quantised tensors have them: b_zero (n), a_scale (m) and b_scale (n) may be
 * NULL for the rule's. Refuses arrays with a zero point out of range, a scale that is not positive and finite or that
 * TOSA cannot express, and a bias with which a sum could leave int32. */
int npk_qgemm_given(int isa, const npk_qgemm_rule *rule, int64_t m, int64_t n, int64_t k, const uint8_t *a,
                    int64_t lda, int a_signed, const int8_t *packed, const int32_t *sums, const uint8_t *small,
                    const void *b_zero,
                    const float *a_scale, const float *b_scale, const int32_t *bias, const float *float_bias,
                    void *out, int threads);

#endif

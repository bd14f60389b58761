/* The int8 kernel, once for all vector lengths. The including file defines TARGET, MR, LANES columns per vector, the
 * types I and V, the float operations v_load, v_store, v_add, v_mul, v_set1, v_of, and on integers i_zero, i_load,
 * i_low and i_high (the nibbles of every byte, plus 8), i_quad (4 bytes to all lanes), i_add, i_sub, i_mul, i_set1,
 * the partial sums P of at most 32 k: p_zero, p_dot(p, u8 nibbles, s8), and p_sum: P to int32 a column. */
enum { NV = WGEMM_NR / LANES };

/* One vector of columns: as many sums as rows, and as many partial sums, fit the registers. */
TARGET NPK_INLINE void blocks32(const int rows, int64_t len, const int8_t *x, int64_t ldx, const uint8_t *codes,
                                I sum[MR]) {
    for (int64_t start = 0; start < len; start += 32) {
        int64_t end = npk_min(start + 32, len);
        P part[MR];
        NPK_UNROLL
        for (int i = 0; i < rows; i++)
            part[i] = p_zero();
        for (int64_t p = start; p < end; p += 8) {
            I both = i_load(codes + p * 8), low = i_low(both), high = i_high(both);
            NPK_UNROLL
            for (int i = 0; i < rows; i++) {
                part[i] = p_dot(part[i], low, i_quad(x + i * ldx + p));
                part[i] = p_dot(part[i], high, i_quad(x + i * ldx + p + 4));
            }
        }
        NPK_UNROLL
        for (int i = 0; i < rows; i++)
            sum[i] = i_add(sum[i], p_sum(part[i]));
    }
}

TARGET NPK_INLINE void multiply(const int rows, int64_t k, int64_t group, const wgemm_rows *x, const uint8_t *codes,
                                const float *scale, const float *zero, float *y, int64_t ldy) {
    for (int64_t g = 0; g < x->groups; g++, scale += WGEMM_NR) {
        int64_t first = g * group;
        for (int j = 0; j < NV; j++) {
            I sum[MR];
            NPK_UNROLL
            for (int i = 0; i < rows; i++)
                sum[i] = i_zero();
            blocks32(rows, npk_min(group, k - first), x->codes + first, x->ld, codes + first * 8 + j * 4 * LANES, sum);
            I offset = i_set1(8);
            if (zero)
                offset = i_add(offset, i_of(v_load(zero + g * WGEMM_NR + j * LANES)));
            V weight = v_load(scale + j * LANES);
            NPK_UNROLL
            for (int i = 0; i < rows; i++) {
                I exact = i_sub(sum[i], i_mul(offset, i_set1(x->sums[i * x->groups + g])));
                float *dst = y + i * ldy + j * LANES;
                V factor = v_mul(weight, v_set1(x->scale[i * x->groups + g]));
                v_store(dst, v_add(v_load(dst), v_mul(v_of(exact), factor)));
            }
        }
    }
}

#define ROWS(r)                                                                                                  \
    TARGET static void rows##r(int64_t k, int64_t group, const wgemm_rows *x, const uint8_t *codes,              \
                               const float *scale, const float *zero, float *y, int64_t ldy) {                   \
        multiply(r, k, group, x, codes, scale, zero, y, ldy);                                                    \
    }

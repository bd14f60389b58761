/* The int8 kernel, once for all vector lengths. The including file defines TARGET, MR, LANES columns per vector, the
 * types I and V, the float operations v_load, v_store, v_add, v_mul, v_set1, v_of, and on integers i_zero, i_load,
 * i_low and i_high (the nibbles of every byte, plus 8), i_quad (4 bytes to all lanes), i_add, i_sub, i_mul, i_set1,
 * the partial sums P of at most 32 k: p_start(offset), p_dot(p, u8 nibbles, s8), and p_sum: P to int32 a column. */
enum { NV = WGEMM_NR / LANES };

/* All columns of a group: every quad of x is spread once for them. */
TARGET NPK_INLINE void group_sums(const int rows, int64_t len, const int8_t *x, int64_t ldx, const int32_t *offsets,
                                  int64_t ldo, const uint8_t *codes, I sum[MR][NV]) {
    for (int64_t start = 0; start < len; start += 32) {
        int64_t end = npk_min(start + 32, len);
        P part[MR][NV];
        NPK_UNROLL
        for (int i = 0; i < rows; i++) {
            NPK_UNROLL
            for (int j = 0; j < NV; j++)
                part[i][j] = p_start(offsets[i * ldo + start / 32]);
        }
        for (int64_t p = start; p < end; p += 8) {
            I both[NV];
            NPK_UNROLL
            for (int j = 0; j < NV; j++)
                both[j] = i_load(codes + p * 8 + j * 4 * LANES);
            NPK_UNROLL
            for (int half = 0; half < 2; half++) {
                I nibbles[NV];
                NPK_UNROLL
                for (int j = 0; j < NV; j++)
                    nibbles[j] = half ? i_high(both[j]) : i_low(both[j]);
                NPK_UNROLL
                for (int i = 0; i < rows; i++) {
                    I quad = i_quad(x + i * ldx + p + 4 * half);
                    NPK_UNROLL
                    for (int j = 0; j < NV; j++)
                        part[i][j] = p_dot(part[i][j], nibbles[j], quad);
                }
            }
        }
        NPK_UNROLL
        for (int i = 0; i < rows; i++) {
            NPK_UNROLL
            for (int j = 0; j < NV; j++)
                sum[i][j] = i_add(sum[i][j], p_sum(part[i][j]));
        }
    }
}

/* `shifted`, a constant at every call, says that there are zero points. */
TARGET NPK_INLINE void multiply(const int rows, const bool shifted, int64_t k, int64_t group, const wgemm_rows *given,
                                const uint8_t *codes, const float *scale, const float *zero, float *y, int64_t ldy) {
    const wgemm_rows x = *given; /* not read again after every store to y */
    for (int64_t g = 0, first = 0; first < k; g++, first += group) {
        I sum[MR][NV];
        NPK_UNROLL
        for (int i = 0; i < rows; i++) {
            NPK_UNROLL
            for (int j = 0; j < NV; j++)
                sum[i][j] = i_zero();
        }
        group_sums(rows, npk_min(group, k - first), x.codes + first, x.ld, x.offsets + first / 32, x.blocks,
                   codes + first * 8, sum);
        NPK_UNROLL
        for (int i = 0; i < rows; i++) {
            V step = v_set1(x.scale[i * x.groups + g]);
            NPK_UNROLL
            for (int j = 0; j < NV; j++) {
                int64_t column = g * WGEMM_NR + j * LANES;
                I exact = sum[i][j];
                if (shifted)
                    exact = i_sub(exact, i_mul(i_of(v_load(zero + column)), i_set1(x.sums[i * x.groups + g])));
                float *dst = y + i * ldy + j * LANES;
                V factor = v_mul(v_load(scale + column), step);
                v_store(dst, v_add(v_load(dst), v_mul(v_of(exact), factor)));
            }
        }
    }
}

#define ROWS(r)                                                                                                  \
    TARGET static void rows##r(int64_t k, int64_t group, const wgemm_rows *x, const uint8_t *codes,              \
                               const float *scale, const float *zero, float *y, int64_t ldy) {                   \
        if (zero)                                                                                                \
            multiply(r, true, k, group, x, codes, scale, zero, y, ldy);                                          \
        else                                                                                                     \
            multiply(r, false, k, group, x, codes, scale, NULL, y, ldy);                                         \
    }

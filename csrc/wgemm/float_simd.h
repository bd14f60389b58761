/* Decoding, tile and streaming in float, once for all vector lengths: the including file defines TARGET, LANES, the
 * types V (float) and I (int32), v_zero, v_set1, v_load, v_store, v_add, v_sub, v_mul, v_fma, i_load, and
 * i_bits(v, left, right): v shifted left, then right with its sign; v_of: int32 to float. */
enum { NV = WGEMM_NR / LANES };

/* The code of k = p within a block (8 k of 4 bits, 4 k of 8 bits) of LANES columns. */
#define CODE(bits, v, p)                                                                                         \
    ((bits) == 8 ? i_bits(v, 24 - 8 * (p), 24) : i_bits(v, ((p) < 4 ? 28 : 24) - 8 * ((p) % 4), 28))

/* `bits` and `shifted`, which says that there are zero points, are constants at every call. */
TARGET NPK_INLINE void decode_bits(const int bits, const bool shifted, const wgemm_chunk *c, float *dst) {
    const int steps = bits == 8 ? 4 : 8;
    const uint8_t *codes = c->codes;
    const int64_t len = c->len;
    V scale[NV], zero[NV];
    NPK_UNROLL
    for (int j = 0; j < NV; j++) {
        scale[j] = v_load(c->scale + j * LANES);
        zero[j] = shifted ? v_load(c->zero + j * LANES) : v_zero();
    }
    for (int64_t p = 0; p < len; p += steps, codes += 64) {
        NPK_UNROLL
        for (int j = 0; j < NV; j++) {
            I block = i_load(codes + j * 4 * LANES);
            NPK_UNROLL
            for (int t = 0; t < steps; t++) {
                V w = v_of(CODE(bits, block, t));
                if (shifted)
                    w = v_sub(w, zero[j]);
                v_store(dst + (p + t) * WGEMM_NR + j * LANES, v_mul(w, scale[j]));
            }
        }
    }
}

TARGET static void decode(int bits, const wgemm_chunk *c, float *dst) {
    if (bits == 8 && c->zero)
        decode_bits(8, true, c, dst);
    else if (bits == 8)
        decode_bits(8, false, c, dst);
    else if (c->zero)
        decode_bits(4, true, c, dst);
    else
        decode_bits(4, false, c, dst);
}

TARGET NPK_INLINE void multiply(const int rows, int64_t len, const float *x, int64_t ldx, const float *w,
                                const float *scale, const float *row_scale, int64_t ldr, float *y, int64_t ldy) {
    V sum[MR][NV];
    NPK_UNROLL
    for (int i = 0; i < rows; i++) {
        NPK_UNROLL
        for (int j = 0; j < NV; j++)
            sum[i][j] = v_zero();
    }
    for (int64_t p = 0; p < len; p++, w += WGEMM_NR) {
        V wv[NV];
        NPK_UNROLL
        for (int j = 0; j < NV; j++)
            wv[j] = v_load(w + j * LANES);
        NPK_UNROLL
        for (int i = 0; i < rows; i++) {
            V xv = v_set1(x[i * ldx + p]);
            NPK_UNROLL
            for (int j = 0; j < NV; j++)
                sum[i][j] = v_fma(xv, wv[j], sum[i][j]);
        }
    }
    NPK_UNROLL
    for (int i = 0; i < rows; i++) {
        NPK_UNROLL
        for (int j = 0; j < NV; j++) {
            float *dst = y + i * ldy + j * LANES;
            V factor = v_mul(v_load(scale + j * LANES), v_set1(row_scale[i * ldr]));
            v_store(dst, v_fma(sum[i][j], factor, v_load(dst)));
        }
    }
}

/* One row: the four k of a quad have chains of their own, which hides the latency of the multiply-add. */
TARGET NPK_INLINE void stream_bits(const int bits, const wgemm_chunk *c, const float *x, float *y) {
    const int steps = bits == 8 ? 4 : 8;
    V sum[4][NV];
    NPK_UNROLL
    for (int t = 0; t < 4; t++) {
        NPK_UNROLL
        for (int j = 0; j < NV; j++)
            sum[t][j] = v_zero();
    }
    const uint8_t *codes = c->codes;
    for (int64_t p = 0; p < c->len; p += steps, codes += 64, x += steps) {
        NPK_UNROLL
        for (int j = 0; j < NV; j++) {
            I block = i_load(codes + j * 4 * LANES);
            NPK_UNROLL
            for (int t = 0; t < steps; t++) {
                V w = v_of(CODE(bits, block, t));
                if (c->zero)
                    w = v_sub(w, v_load(c->zero + j * LANES));
                sum[t % 4][j] = v_fma(v_set1(x[t]), w, sum[t % 4][j]);
            }
        }
    }
    NPK_UNROLL
    for (int j = 0; j < NV; j++) {
        V total = v_add(v_add(sum[0][j], sum[1][j]), v_add(sum[2][j], sum[3][j]));
        float *dst = y + j * LANES;
        v_store(dst, v_fma(total, v_load(c->scale + j * LANES), v_load(dst)));
    }
}

TARGET static void stream(int bits, const wgemm_chunk *c, const float *x, float *y) {
    if (bits == 8)
        stream_bits(8, c, x, y);
    else
        stream_bits(4, c, x, y);
}

#define ROWS(r)                                                                                                  \
    TARGET static void rows##r(int64_t len, const float *x, int64_t ldx, const float *w, const float *scale,     \
                       const float *row_scale, int64_t ldr, float *y, int64_t ldy) {                             \
        multiply(r, len, x, ldx, w, scale, row_scale, ldr, y, ldy);                                              \
    }

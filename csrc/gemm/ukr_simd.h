/* The vector micro-kernel, once for all instruction sets.
 *
 * The including file defines: TARGET (a target attribute or nothing), MR rows, NV vectors per row,
 * LANES per vector, the types V and MASK, and v_zero, v_set1, v_load, v_store, v_add, v_fma(a, b, c) = a b + c,
 * v_mask(count), v_load_some(x, mask), v_store_some(x, mask, v), v_widen(type, x): LANES floats of 16 bits.
 * It then lists ROWS(1) ... ROWS(MR) and STRIPS. One step of p costs MR broadcasts and NV loads for MR * NV
 * multiply-adds; the tile is chosen so that MR * NV accumulators and their operands fit the
 * registers and hide the latency of the multiply-add. */
#define NR (NV * LANES)

enum { MAX_NV = 4 };

/* Elements `at` and following of a B of any type, which is a constant at every call. */
TARGET NPK_INLINE V load_b(const int type, const void *b, int64_t at) {
    return type == NPK_GEMM_F32 ? v_load((const float *)b + at) : v_widen(type, (const uint16_t *)b + at);
}

/* `type`, `rows`, `nv`, `strip` (the rows of B after these follow: they are fetched into L2), `packed_a` and `some` (the
 * last vector is not full: floats only) are constants at every call. */
TARGET NPK_INLINE void tile(const int type, const int rows, const int nv, const bool strip, const bool packed_a,
                            const bool some_b, const bool some_c, int64_t kc, const float *a, int64_t rsa, const void *b, int64_t rsb,
                            float *c, int64_t rsc, int64_t last, tile_mode mode) {
    const int64_t size = type == NPK_GEMM_F32 ? 4 : 2;
    V acc[MR][MAX_NV];
    MASK mask = v_mask(last);
    NPK_UNROLL
    for (int i = 0; i < rows; i++) {
        NPK_UNROLL
        for (int j = 0; j < nv; j++)
            acc[i][j] = v_zero();
        __builtin_prefetch(c + i * rsc, 1);
    }
    if (mode == TILE_CONTINUE) {
        NPK_UNROLL
        for (int i = 0; i < rows; i++) {
            NPK_UNROLL
            for (int j = 0; j < nv; j++) {
                const float *src = c + i * rsc + j * LANES;
                acc[i][j] = some_c && j == nv - 1 ? v_load_some(src, mask) : v_load(src);
            }
        }
    }
    for (int64_t p = 0; p < kc; p++, b = (const char *)b + rsb * size) {
        V bv[MAX_NV];
        NPK_UNROLL
        for (int j = 0; j < nv; j++)
            bv[j] = some_b && j == nv - 1 ? v_load_some((const float *)b + j * LANES, mask)
                                          : load_b(type, b, j * LANES);
        if (strip) {
            NPK_UNROLL
            for (int64_t line = 0; line < nv * LANES * size; line += 64)
                __builtin_prefetch((const void *)((uintptr_t)b + (uintptr_t)(kc * rsb * size + line)), 0, 2);
        }
        NPK_UNROLL
        for (int i = 0; i < rows; i++) {
            V av = v_set1(packed_a ? a[p * MR + i] : a[i * rsa + p]);
            NPK_UNROLL
            for (int j = 0; j < nv; j++)
                acc[i][j] = v_fma(av, bv[j], acc[i][j]);
        }
    }
    NPK_UNROLL
    for (int i = 0; i < rows; i++) {
        NPK_UNROLL
        for (int j = 0; j < nv; j++) {
            float *dst = c + i * rsc + j * LANES;
            if (some_c && j == nv - 1) {
                V sum = mode == TILE_ADD ? v_add(v_load_some(dst, mask), acc[i][j]) : acc[i][j];
                v_store_some(dst, mask, sum);
            } else {
                v_store(dst, mode == TILE_ADD ? v_add(v_load(dst), acc[i][j]) : acc[i][j]);
            }
        }
    }
}

/* Any columns up to NR, B packed (rsb = NR, full vectors) or in place. */
TARGET NPK_INLINE void edge(const int rows, const int nv, int64_t kc, const float *a, int64_t rsa, const float *b,
                            int64_t rsb, float *c, int64_t rsc, int64_t cols, tile_mode mode) {
    int64_t last = cols - (nv - 1) * LANES;
    if (rsa == 0)
        tile(NPK_GEMM_F32, rows, nv, false, true, true, true, kc, a, rsa, b, rsb, c, rsc, last, mode);
    else
        tile(NPK_GEMM_F32, rows, nv, false, false, true, true, kc, a, rsa, b, rsb, c, rsc, last, mode);
}

TARGET NPK_INLINE void any_tile(const int rows, int64_t kc, const float *a, int64_t rsa, const float *b, int64_t rsb,
                                float *c, int64_t rsc, int64_t cols, tile_mode mode) {
    if (cols < NR) {
        if (NV > 1 && cols > LANES)
            edge(rows, NV, kc, a, rsa, b, rsb, c, rsc, cols, mode);
        else
            edge(rows, 1, kc, a, rsa, b, rsb, c, rsc, cols, mode);
    } else if (rsa == 0) {
        tile(NPK_GEMM_F32, rows, NV, false, true, false, false, kc, a, rsa, b, rsb == NR ? NR : rsb, c, rsc, LANES, mode);
    } else {
        tile(NPK_GEMM_F32, rows, NV, false, false, false, false, kc, a, rsa, b, rsb, c, rsc, LANES, mode);
    }
}

/* All columns of a few rows, A and B in place: B is read in the order of memory. */
TARGET NPK_INLINE void any_strip(const int rows, int64_t kc, const float *a, int64_t rsa, const float *b, int64_t rsb,
                                 float *c, int64_t rsc, int64_t cols, tile_mode mode) {
    const int nv = rows <= 2 ? MAX_NV : NV;
    int64_t j = 0;
    for (; j + nv * LANES <= cols; j += nv * LANES)
        tile(NPK_GEMM_F32, rows, nv, true, false, false, false, kc, a, rsa, b + j, rsb, c + j, rsc, LANES, mode);
    for (; j < cols; j += LANES) {
        int64_t left = npk_min(LANES, cols - j);
        tile(NPK_GEMM_F32, rows, 1, false, false, true, true, kc, a, rsa, b + j, rsb, c + j, rsc, left, mode);
    }
}

/* The same for 16 bits, which are widened in registers. */
TARGET NPK_INLINE void half_strip(const int type, const int rows, int64_t kc, const float *a, int64_t rsa,
                                  const uint16_t *b, int64_t rsb, float *c, int64_t rsc, int64_t cols, tile_mode mode) {
    const int nv = rows <= 2 ? MAX_NV : NV, last = GEMM_HALF_COLS / LANES;
    int64_t j = 0;
    for (; j + nv * LANES <= cols; j += nv * LANES)
        tile(type, rows, nv, true, false, false, false, kc, a, rsa, b + j, rsb, c + j, rsc, LANES, mode);
    for (; j < cols; j += GEMM_HALF_COLS)
        tile(type, rows, last, true, false, false, false, kc, a, rsa, b + j, rsb, c + j, rsc, LANES, mode);
}

#define ROWS(r)                                                                                                 \
    TARGET static void rows##r(int64_t kc, const float *a, int64_t rsa, const float *b, int64_t rsb, float *c,  \
                               int64_t rsc, int64_t cols, tile_mode mode) {                                     \
        any_tile(r, kc, a, rsa, b, rsb, c, rsc, cols, mode);                                                    \
    }
#define STRIP_ROWS(r)                                                                                           \
    TARGET static void strip##r(int64_t kc, const float *a, int64_t rsa, const float *b, int64_t rsb, float *c, \
                                int64_t rsc, int64_t cols, tile_mode mode) {                                    \
        any_strip(r, kc, a, rsa, b, rsb, c, rsc, cols, mode);                                                   \
    }                                                                                                           \
    TARGET static void halves##r(int type, int64_t kc, const float *a, int64_t rsa, const uint16_t *b,          \
                                 int64_t rsb, float *c, int64_t rsc, int64_t cols, tile_mode mode) {            \
        if (type == NPK_GEMM_FP16)                                                                              \
            half_strip(NPK_GEMM_FP16, r, kc, a, rsa, b, rsb, c, rsc, cols, mode);                               \
        else                                                                                                    \
            half_strip(NPK_GEMM_BF16, r, kc, a, rsa, b, rsb, c, rsc, cols, mode);                               \
    }

/* The tables of strips. */
#define STRIPS                                                                                                  \
    STRIP_ROWS(1) STRIP_ROWS(2) STRIP_ROWS(3) STRIP_ROWS(4) STRIP_ROWS(5) STRIP_ROWS(6)                         \
    static const gemm_tile STRIP[GEMM_STRIP_ROWS] = {strip1, strip2, strip3, strip4, strip5, strip6};           \
    static const gemm_half_strip HALF_STRIP[GEMM_STRIP_ROWS] = {halves1, halves2, halves3,                      \
                                                                halves4, halves5, halves6};

/* The vector micro-kernel, once for all instruction sets.
 *
 * The including file defines: TARGET (a target attribute or nothing), MR rows, NV vectors per row,
 * LANES per vector, the type V, and v_zero, v_set1, v_load, v_store, v_add, v_fma(a, b, c) = a b + c.
 * It then lists ROWS(1) ... ROWS(MR). One step of p costs MR broadcasts and NV loads for MR * NV
 * multiply-adds; the tile is chosen so that MR * NV accumulators and their operands fit the
 * registers and hide the latency of the multiply-add. */
#define NR (NV * LANES)

TARGET NPK_INLINE void tile(const int rows, int64_t kc, const float *a, const float *b, float *c, int64_t rsc,
                            bool accumulate) {
    V acc[MR][NV];
    NPK_UNROLL
    for (int i = 0; i < rows; i++) {
        NPK_UNROLL
        for (int j = 0; j < NV; j++)
            acc[i][j] = v_zero();
        __builtin_prefetch(c + i * rsc, 1);
    }
    for (int64_t p = 0; p < kc; p++, a += MR, b += NR) {
        V bv[NV];
        NPK_UNROLL
        for (int j = 0; j < NV; j++)
            bv[j] = v_load(b + j * LANES);
        NPK_UNROLL
        for (int i = 0; i < rows; i++) {
            V av = v_set1(a[i]);
            NPK_UNROLL
            for (int j = 0; j < NV; j++)
                acc[i][j] = v_fma(av, bv[j], acc[i][j]);
        }
    }
    NPK_UNROLL
    for (int i = 0; i < rows; i++) {
        NPK_UNROLL
        for (int j = 0; j < NV; j++) {
            float *dst = c + i * rsc + j * LANES;
            v_store(dst, accumulate ? v_add(v_load(dst), acc[i][j]) : acc[i][j]);
        }
    }
}

#define ROWS(r)                                                                                                 \
    TARGET static void rows##r(int64_t kc, const float *a, const float *b, float *c, int64_t rsc,               \
                               bool accumulate) {                                                               \
        tile(r, kc, a, b, c, rsc, accumulate);                                                                  \
    }

/* Dot products along memory, for a few rows of A and columns of B that are contiguous; once for all instruction sets.
 *
 * Included after ukr_simd.h; uses its operations and v_sums, see below. An element of C is 16 chains, chain l over the
 * steps p = l mod 16 in their order, from zero; then the chains are halved until one is left: l + (l + 8), l + (l + 4),
 * l + (l + 2), l + (l + 1). That is the order for 8 lanes and for 16, and for any number of rows and columns. */

enum {
    DOT_STEPS = 16,
    DOT_NV = DOT_STEPS / LANES, /* vectors of a dot product */
    DOTS = 8 / DOT_NV,          /* at once: 8 chains of vectors hide the latency of the multiply-add */
    DOT_NEAR = 128,             /* steps of B fetched ahead into L1, */
    DOT_FAR = 512,              /* or into L2 when B comes from memory: L1 takes too few misses at a time */
    DOT_CACHED = 16 << 20,      /* bytes of B that a cache may hold */
};

/* Elements `at` ... of a column of B; where only `left` of them exist, zeros follow. */
TARGET NPK_INLINE V load_column(const int type, const void *b, int64_t at, const bool some, int64_t left) {
    if (!some || (type != NPK_GEMM_F32 && left == LANES))
        return load_b(type, b, at);
    if (type == NPK_GEMM_F32)
        return v_load_some((const float *)b + at, v_mask(left));
    uint16_t codes[LANES] = {0};
    for (int64_t q = 0; q < left; q++)
        codes[q] = ((const uint16_t *)b)[at + q];
    return left ? v_widen(type, codes) : v_zero();
}

/* The multiply-adds of 16 steps, or of the first `count` of them. */
TARGET NPK_INLINE void dot_steps(const int type, const int rows, const int cols, const bool some, int64_t count,
                                 const float *const *a, const void *const *b, int64_t p, V acc[DOTS][DOT_NV]) {
    NPK_UNROLL
    for (int v = 0; v < DOT_NV; v++) {
        int64_t at = p + v * LANES, left = npk_min(count - v * LANES, LANES);
        left = left < 0 ? 0 : left;
        MASK mask = v_mask(left);
        V av[GEMM_DOT_ROWS];
        NPK_UNROLL
        for (int i = 0; i < rows; i++)
            av[i] = some ? v_load_some(a[i] + at, mask) : v_load(a[i] + at);
        NPK_UNROLL
        for (int j = 0; j < cols; j++) {
            V bv = load_column(type, b[j], at, some, left);
            NPK_UNROLL
            for (int i = 0; i < rows; i++)
                acc[i * cols + j][v] = v_fma(av[i], bv, acc[i * cols + j][v]);
        }
    }
}

/* rows x cols = DOTS elements of C to sums[i * cols + j]. `next` columns on, B will be read after this. */
TARGET NPK_INLINE void dot_block(const int type, const int rows, const int cols, int64_t k, const float *const *a,
                                 const void *const *b, int64_t next, bool far, float *sums) {
    const uintptr_t size = type == NPK_GEMM_F32 ? 4 : 2;
    V acc[DOTS][DOT_NV];
    NPK_UNROLL
    for (int d = 0; d < DOTS; d++) {
        NPK_UNROLL
        for (int v = 0; v < DOT_NV; v++)
            acc[d][v] = v_zero();
    }
    int64_t p = 0;
    for (; p + DOT_STEPS <= k; p += DOT_STEPS) {
        int64_t ahead = p + (far ? DOT_FAR : DOT_NEAR);
        ahead += ahead < k ? 0 : next - k;
        NPK_UNROLL
        for (int j = 0; j < cols; j++) {
            const void *line = (const void *)((uintptr_t)b[j] + (uintptr_t)ahead * size);
            if (far)
                __builtin_prefetch(line, 0, 2);
            else
                __builtin_prefetch(line, 0, 3);
        }
        dot_steps(type, rows, cols, false, DOT_STEPS, a, b, p, acc);
    }
    if (p < k)
        dot_steps(type, rows, cols, true, k - p, a, b, p, acc);
    NPK_UNROLL
    for (int d = 0; d < DOTS; d += 4)
        v_sums(acc + d, sums + d);
}

/* All columns for `rows` rows; the last columns, when fewer than a block has, are computed with copies of the last. */
TARGET NPK_INLINE void dot_rows(const int type, const int rows, int64_t n, int64_t k, const float *a, int64_t rsa,
                                const void *b, int64_t ldb, float *c, int64_t rsc, int64_t csc) {
    const int cols = DOTS / rows;
    const int64_t size = type == NPK_GEMM_F32 ? 4 : 2;
    const float *lines[GEMM_DOT_ROWS];
    const void *columns[DOTS];
    NPK_UNROLL
    for (int i = 0; i < rows; i++)
        lines[i] = a + i * rsa;
    for (int64_t j = 0; j < n; j += cols) {
        int64_t left = npk_min(cols, n - j);
        float sums[DOTS];
        NPK_UNROLL
        for (int q = 0; q < cols; q++)
            columns[q] = (const char *)b + (j + npk_min(q, left - 1)) * ldb * size;
        dot_block(type, rows, cols, k, lines, columns, cols * ldb, n * k * size > DOT_CACHED, sums);
        for (int i = 0; i < rows; i++)
            for (int64_t q = 0; q < left; q++)
                c[i * rsc + (j + q) * csc] = sums[i * cols + q];
    }
}

TARGET NPK_INLINE void dots_of(const int type, int rows, int64_t n, int64_t k, const float *a, int64_t rsa,
                               const void *b, int64_t ldb, float *c, int64_t rsc, int64_t csc) {
    if (rows == 1)
        dot_rows(type, 1, n, k, a, rsa, b, ldb, c, rsc, csc);
    else
        dot_rows(type, 2, n, k, a, rsa, b, ldb, c, rsc, csc);
}

TARGET static void dots(int type, int rows, int64_t n, int64_t k, const float *a, int64_t rsa, const void *b,
                        int64_t ldb, float *c, int64_t rsc, int64_t csc) {
    switch (type) {
    case NPK_GEMM_F32: dots_of(NPK_GEMM_F32, rows, n, k, a, rsa, b, ldb, c, rsc, csc); break;
    case NPK_GEMM_FP16: dots_of(NPK_GEMM_FP16, rows, n, k, a, rsa, b, ldb, c, rsc, csc); break;
    default: dots_of(NPK_GEMM_BF16, rows, n, k, a, rsa, b, ldb, c, rsc, csc); break;
    }
}

/* The micro-kernel of conv2d, once for all instruction sets; the including file has included a vmath header and says
 * how many rows MR a tile has at most. It then lists TILE_ROWS(1) ... TILE_ROWS(MR).
 *
 * It is the tile of a matrix product (csrc/gemm/ukr_simd.h) whose rows are pixels anywhere in memory, read in place:
 * one chain per element from zero, in the order of p. */
enum { NV = 2, NR = NV * LANES };

/* `rows`, `nv` and `full` (all columns of the vectors exist) are constants at every call. */
TARGET NPK_INLINE void tile(const int rows, const int nv, const bool full, const conv_walk *walk, int64_t p,
                            int64_t len, const float *const *pixels, const float *b, float *const *out, int64_t last,
                            bool add) {
    V acc[MR][NV];
    NPK_UNROLL
    for (int i = 0; i < rows; i++) {
        NPK_UNROLL
        for (int j = 0; j < nv; j++)
            acc[i][j] = v_set1(0.0f);
        __builtin_prefetch(out[i], 1);
    }
    int64_t run = p / walk->run, at = p % walk->run;
    for (int64_t count; len > 0; len -= count, run++, at = 0) {
        int64_t offset = run / walk->runs * walk->row_step + run % walk->runs * walk->run_step + at;
        count = npk_min(walk->run - at, len);
        const float *a[MR];
        NPK_UNROLL
        for (int i = 0; i < rows; i++)
            a[i] = pixels[i] + offset;
        for (int64_t q = 0; q < count; q++, b += NR) {
            V bv[NV];
            NPK_UNROLL
            for (int j = 0; j < nv; j++)
                bv[j] = v_load(b + j * LANES);
            NPK_UNROLL
            for (int i = 0; i < rows; i++) {
                V av = v_set1(a[i][q]);
                NPK_UNROLL
                for (int j = 0; j < nv; j++)
                    acc[i][j] = v_fma(av, bv[j], acc[i][j]);
            }
        }
    }
    NPK_UNROLL
    for (int i = 0; i < rows; i++) {
        NPK_UNROLL
        for (int j = 0; j < nv; j++) {
            float *dst = out[i] + j * LANES;
            if (full || j < nv - 1) {
                v_store(dst, add ? v_add(v_load(dst), acc[i][j]) : acc[i][j]);
            } else {
                V sum = add ? v_add(v_load_part(dst, last, v_set1(0.0f)), acc[i][j]) : acc[i][j];
                v_store_part(dst, sum, last);
            }
        }
    }
}

TARGET NPK_INLINE void any_tile(const int rows, const conv_walk *walk, int64_t p, int64_t len,
                                const float *const *pixels, const float *b, float *const *out, int64_t cols,
                                bool add) {
    if (cols == NR)
        tile(rows, NV, true, walk, p, len, pixels, b, out, LANES, add);
    else if (cols > LANES)
        tile(rows, NV, false, walk, p, len, pixels, b, out, cols - LANES, add);
    else if (cols == LANES)
        tile(rows, 1, true, walk, p, len, pixels, b, out, LANES, add);
    else
        tile(rows, 1, false, walk, p, len, pixels, b, out, cols, add);
}

#define TILE_ROWS(r)                                                                                               \
    TARGET static void tile##r(const conv_walk *walk, int64_t p, int64_t len, const float *const *pixels,          \
                               const float *b, float *const *out, int64_t cols, bool add) {                        \
        any_tile(r, walk, p, len, pixels, b, out, cols, add);                                                      \
    }

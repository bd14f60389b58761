/* One token, once for all instruction sets; the including file has included a vmath header.
 *
 * y1 = x1 cos - x2 sin, y2 = x2 cos + x1 sin. The vector loop rounds the second product into the sum (v_fma);
 * interleaved pairs are left to the compiler, which cannot fuse, and so round each product. */
TARGET NPK_INLINE void rotate_halves(const bool stream, int64_t heads, int64_t dim, int64_t half, const float *x,
                                     const float *cosines, const float *sines, float *out) {
    const V zero = v_set1(0.0f);
    for (int64_t h = 0; h < heads; h++, x += dim, out += dim) {
        int64_t i = 0;
        for (; i + LANES <= half; i += LANES) {
            V x1 = v_load(x + i), x2 = v_load(x + half + i), c = v_load(cosines + i), s = v_load(sines + i);
            V y1 = v_fnma(x2, s, v_mul(x1, c)), y2 = v_fma(x1, s, v_mul(x2, c));
            if (stream) {
                v_stream_part(out + i, y1, LANES);
                v_stream_part(out + half + i, y2, LANES);
            } else {
                v_store(out + i, y1);
                v_store(out + half + i, y2);
            }
        }
        if (i < half) {
            int64_t n = half - i;
            V x1 = v_load_part(x + i, n, zero), x2 = v_load_part(x + half + i, n, zero);
            V c = v_load_part(cosines + i, n, zero), s = v_load_part(sines + i, n, zero);
            v_store_part(out + i, v_fnma(x2, s, v_mul(x1, c)), n);
            v_store_part(out + half + i, v_fma(x1, s, v_mul(x2, c)), n);
        }
        if (out != x)
            memcpy(out + 2 * half, x + 2 * half, (size_t)(dim - 2 * half) * sizeof(float));
    }
    if (stream)
        v_fence();
}

TARGET static void halves(int64_t heads, int64_t dim, int64_t half, const float *x, const float *cosines,
                          const float *sines, float *out) {
    rotate_halves(false, heads, dim, half, x, cosines, sines, out);
}

TARGET static void streamed_halves(int64_t heads, int64_t dim, int64_t half, const float *x, const float *cosines,
                                   const float *sines, float *out) {
    rotate_halves(true, heads, dim, half, x, cosines, sines, out);
}

/* The first n pairs, through buffers, so that the compiler knows that x and out are apart. */
TARGET NPK_INLINE void rotate_pairs(int64_t n, const float *x, const float *cosines, const float *sines, float *out) {
    float pairs[2 * LANES], rotated[2 * LANES];
    memcpy(pairs, x, (size_t)(2 * n) * sizeof(float));
    for (int64_t j = 0; j < n; j++) {
        rotated[2 * j] = pairs[2 * j] * cosines[j] - pairs[2 * j + 1] * sines[j];
        rotated[2 * j + 1] = pairs[2 * j + 1] * cosines[j] + pairs[2 * j] * sines[j];
    }
    memcpy(out, rotated, (size_t)(2 * n) * sizeof(float));
}

TARGET static void interleaved(int64_t heads, int64_t dim, int64_t half, const float *x, const float *cosines,
                               const float *sines, float *out) {
    for (int64_t h = 0; h < heads; h++, x += dim, out += dim) {
        int64_t i = 0;
        for (; i + LANES <= half; i += LANES)
            rotate_pairs(LANES, x + 2 * i, cosines + i, sines + i, out + 2 * i);
        if (i < half)
            rotate_pairs(half - i, x + 2 * i, cosines + i, sines + i, out + 2 * i);
        if (out != x)
            memcpy(out + 2 * half, x + 2 * half, (size_t)(dim - 2 * half) * sizeof(float));
    }
}

static const rope_table TABLE = {halves, interleaved, streamed_halves};

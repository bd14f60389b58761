/* A as s16, for the kernels that multiply 16-bit pairs. */
TARGET static void convert(int64_t rows, int64_t k, const uint8_t *a, int64_t lda, bool is_signed, void *dst,
                           int64_t stride) {
    for (int64_t i = 0; i < rows; i++, a += lda) {
        int16_t *restrict to = (int16_t *)((char *)dst + i * stride);
        if (is_signed)
            for (int64_t p = 0; p < k; p++)
                to[p] = (int8_t)a[p];
        else
            for (int64_t p = 0; p < k; p++)
                to[p] = a[p];
        for (int64_t p = k; p % 4 != 0; p++)
            to[p] = 0;
    }
}

/* Loads and stores of the number formats that vectors of binary32 are converted from and to in registers.
 * Included after one of the vmath headers; `type` is always a constant, so the choice costs nothing. */
#ifndef NPK_VTYPES_H
#define NPK_VTYPES_H

TARGET NPK_INLINE V v_load_as(const int type, const void *x, int64_t i) {
    switch (type) {
    case NPK_BF16: return v_load_bf16((const uint16_t *)x + i);
    case NPK_FP16: return v_load_f16((const uint16_t *)x + i);
    default: return v_load((const float *)x + i);
    }
}

TARGET NPK_INLINE void v_store_as(const int type, void *x, int64_t i, V v) {
    switch (type) {
    case NPK_BF16: v_store_bf16((uint16_t *)x + i, v); break;
    case NPK_FP16: v_store_f16((uint16_t *)x + i, v); break;
    default: v_store((float *)x + i, v);
    }
}

/* The first 0 < count < LANES elements from i on; the other lanes are those of `fill`. */
TARGET NPK_INLINE V v_load_part_as(const int type, const void *x, int64_t i, int64_t count, V fill) {
    if (type == NPK_FP32)
        return v_load_part((const float *)x + i, count, fill);
    uint16_t codes[LANES] = {0};
    float lanes[LANES];
    memcpy(codes, (const uint16_t *)x + i, (size_t)count * sizeof(uint16_t));
    v_store(lanes, v_load_as(type, codes, 0));
    return v_load_part(lanes, count, fill);
}

TARGET NPK_INLINE void v_store_part_as(const int type, void *x, int64_t i, int64_t count, V v) {
    if (type == NPK_FP32) {
        v_store_part((float *)x + i, v, count);
        return;
    }
    uint16_t codes[LANES];
    v_store_as(type, codes, 0, v);
    memcpy((uint16_t *)x + i, codes, (size_t)count * sizeof(uint16_t));
}

/* Stores past the caches when `stream`; then x + i is a float pointer at a multiple of a vector. */
TARGET NPK_INLINE void v_put(const int type, const bool stream, void *x, int64_t i, V v) {
    if (stream)
        v_stream((float *)x + i, v);
    else
        v_store_as(type, x, i, v);
}

/* The same of the first 0 < count < LANES elements, at any float pointer of 16-byte alignment. */
TARGET NPK_INLINE void v_put_part(const int type, const bool stream, void *x, int64_t i, int64_t count, V v) {
    if (stream && count % 4 == 0)
        v_stream_part((float *)x + i, v, count);
    else
        v_store_part_as(type, x, i, count, v);
}

/* Elements, of `count`, before the first multiple of a vector at or after x. */
NPK_INLINE int64_t v_lead(const void *x, int64_t count) {
    return npk_min((int64_t)(-(uintptr_t)x / sizeof(float) % LANES), count);
}

#endif

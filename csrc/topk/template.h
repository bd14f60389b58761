/* One row, once for all instruction sets; the including file has included a vmath header.
 *
 * A sorted list of the best so far; vectors without an element above its last are passed over, which for a long
 * row are nearly all. */

/* Whether a ranks before b, given that a's index is the higher: NaN is above all numbers. */
NPK_INLINE bool above(float a, float b) { return a > b || (a != a && b == b); }

NPK_INLINE void insert(int64_t *count, int64_t best, float x, int64_t index, float *values, int64_t *indices) {
    if (*count == best && !above(x, values[best - 1]))
        return;
    int64_t at = *count < best ? (*count)++ : best - 1;
    for (; at > 0 && above(x, values[at - 1]); at--) {
        values[at] = values[at - 1];
        indices[at] = indices[at - 1];
    }
    values[at] = x;
    indices[at] = index;
}

TARGET static void topk(int64_t cols, int64_t best, const float *x, float *values, int64_t *indices) {
    int64_t count = 0, i = 0;
    for (; i < best; i++)
        insert(&count, best, x[i], i, values, indices);
    for (; i + LANES <= cols; i += LANES) {
        V v = v_load(x + i);
        if (v_none(v_above(v, v_set1(values[best - 1]))))
            continue;
        for (int64_t j = i; j < i + LANES; j++)
            insert(&count, best, x[j], j, values, indices);
    }
    for (; i < cols; i++)
        insert(&count, best, x[i], i, values, indices);
}

static const topk_table TABLE = topk;

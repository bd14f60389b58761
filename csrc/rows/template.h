/* One row of each op, once for all instruction sets; the including file has included a vmath header.
 *
 * Sums run over UNROLL vectors of partial sums, element i in lane i mod GROUP until less than that are left, then in
 * lane i mod LANES; partial sums are added as a tree (v_hsum). */
#include "../common/vtypes.h"

#include <math.h>

enum { UNROLL = 4, GROUP = UNROLL * LANES };

TARGET NPK_INLINE V sum_of(const V acc[UNROLL]) { return v_add(v_add(acc[0], acc[2]), v_add(acc[1], acc[3])); }

/* Calls STEP(u, v, i, count) for all vectors v of every `stride`-th group from element `from` on, u the partial sum to
 * use, i the first element, count = LANES. */
#define FOR_GROUPS(from, stride, type, x, cols, STEP)                                                           \
    for (int64_t i = from; i + GROUP <= cols; i += GROUP * (stride)) {                                          \
        NPK_UNROLL                                                                                              \
        for (int u = 0; u < UNROLL; u++)                                                                        \
            STEP(u, v_load_as(type, x, i + u * LANES), i + u * LANES, LANES);                                   \
    }

/* The same for what follows the last group; the last vector, of count < LANES elements, is filled up with `fill`. */
#define FOR_REST(from, type, x, cols, fill, STEP)                                                               \
    do {                                                                                                        \
        int64_t i = from + (cols - (from)) / GROUP * GROUP;                                                     \
        for (; i + LANES <= cols; i += LANES)                                                                   \
            STEP(0, v_load_as(type, x, i), i, LANES);                                                           \
        if (i < cols)                                                                                           \
            STEP(0, v_load_part_as(type, x, i, cols - i, fill), i, cols - i);                                   \
    } while (0)

#define FOR_ROW(type, x, cols, fill, STEP)                                                                      \
    do {                                                                                                        \
        FOR_GROUPS(0, 1, type, x, cols, STEP)                                                                   \
        FOR_REST(0, type, x, cols, fill, STEP);                                                                 \
    } while (0)

/* The same from element `from` to before `to`. When `stream`, vectors lie at multiples of a vector in `out`, for which a
 * few elements come first when `from` is 0; otherwise it must be such a place itself. */
#define FOR_OUTPUT(stream, type, x, out, from, to, STEP)                                                        \
    do {                                                                                                        \
        const int64_t lead = stream && from == 0 ? v_lead(out, to) : 0, start = from + lead;                    \
        if (lead > 0)                                                                                           \
            STEP(0, v_load_part_as(type, x, 0, lead, zero), 0, lead);                                           \
        FOR_GROUPS(start, 1, type, x, to, STEP)                                                                 \
        FOR_REST(start, type, x, to, zero, STEP);                                                               \
    } while (0)

/* Asks L2 for a cache line of the row `ahead` rows further on, so that it comes from memory while this row, which is in
 * the caches, is worked on. Pass `part` of `parts` calls it at every vector, and asks for its share of the row. */
TARGET NPK_INLINE void fetch_row(const bool stream, const rows_args *a, const char *x, int64_t row, int64_t ahead,
                                 const int part, const int parts, const int u, int64_t i) {
    if (stream && u * LANES % (16 * parts) == 0 && row + ahead < a->rows)
        __builtin_prefetch(x + (a->stride_x * ahead + (a->cols * part + i) / parts) * (int64_t)sizeof(float), 0, 2);
}

/* v to `out` from element i on; count < LANES at the end of a row. */
TARGET NPK_INLINE void put_some(const int type, const bool stream, void *out, int64_t i, int64_t count, V v) {
    if (count == LANES)
        v_put(type, stream, out, i, v);
    else
        v_put_part(type, stream, out, i, count, v);
}

TARGET NPK_INLINE V weight_at(const float *weight, int64_t i, int64_t count, V absent) {
    if (!weight)
        return absent;
    return count == LANES ? v_load(weight + i) : v_load_part(weight + i, count, absent);
}

/* The mean of a row of less than SAMPLED elements, or of every SAMPLE-th group of it and what follows the last. As SAMPLE
 * is odd, a pattern whose period is a power of two is met at all its places. */
enum { SAMPLE = 7, SAMPLED = 512 };
TARGET NPK_INLINE V pivot_of(const int type, const rows_args *a, const char *x) {
    const V zero = v_set1(0.0f);
    const int64_t stride = a->cols < SAMPLED ? 1 : SAMPLE, groups = npk_ceil_div(a->cols / GROUP, stride);
    V acc[UNROLL] = {zero, zero, zero, zero};
#define ADD(u, v, i, count) acc[u] = v_add(acc[u], v)
    FOR_GROUPS(0, stride, type, x, a->cols, ADD)
    FOR_REST(0, type, x, a->cols, zero, ADD);
#undef ADD
    return v_set1((float)(v_hsum(sum_of(acc)) / (double)(groups * GROUP + a->cols % GROUP)));
}

/* (x - pivot) scale + shift is a normalised row. */
typedef struct {
    V pivot, scale, shift;
} row_map;

/* Layernorm takes so many rows together, and so many elements of each in turn, whose weights and bias then stay in L1. */
enum { BUNDLE = 4, STRIP = 512 };

/* Sums d = x - pivot and d^2 and takes from both what the pivot is off the mean (Chan, Golub and LeVeque 1983). That is
 * accurate while the pivot is within a standard deviation of the mean, however far the mean is above the deviation; else
 * the sums are taken once more, about the mean. layernorm_bound holds: docs/kernels-rows.md. */
TARGET NPK_INLINE row_map map_of(const int type, const bool stream, const rows_args *a, int64_t row, int64_t ahead) {
    const char *x = a->x + row * a->stride_x * a->bytes;
    const V zero = v_set1(0.0f);
    V pivot = pivot_of(type, a, x);
    for (bool last = false;; last = true) {
        V first[UNROLL] = {zero, zero, zero, zero}, second[UNROLL] = {zero, zero, zero, zero};
#define ADD(u, v, i, count)                                                                                     \
    do {                                                                                                        \
        fetch_row(stream, a, x, row, ahead, 0, 2, u, i);                                                        \
        V d = v_sub(v, pivot);                                                                                  \
        first[u] = v_add(first[u], d);                                                                          \
        second[u] = v_fma(d, d, second[u]);                                                                     \
    } while (0)
        FOR_ROW(type, x, a->cols, pivot, ADD);
#undef ADD
        const double rest = v_hsum(sum_of(first)) / (double)a->cols;
        const double variance = v_hsum(sum_of(second)) / (double)a->cols - rest * rest;
        if (last || !(rest * rest > variance)) {
            const float scale = (float)(1.0 / sqrt((variance < 0.0 ? 0.0 : variance) + (double)a->eps));
            return (row_map){pivot, v_set1(scale), v_set1((float)(-rest * scale))};
        }
        pivot = v_add(pivot, v_set1((float)rest));
    }
}

/* Strip number `strip` of `strips` of a row; the first ends, and the others begin, at a multiple of a vector in the output
 * when `stream`. */
TARGET NPK_INLINE void map_row(const int type, const bool stream, const rows_args *a, int64_t row, int64_t ahead,
                               const row_map map, int64_t strip, int64_t strips) {
    const char *x = a->x + row * a->stride_x * a->bytes;
    char *out = a->out + row * a->cols * a->bytes;
    const V zero = v_set1(0.0f), one = v_set1(1.0f);
    const float *weight = a->weight, *bias = a->bias;
    const int64_t lead = stream ? v_lead(out, a->cols) : 0, from = strip == 0 ? 0 : lead + strip * STRIP;
    const int64_t to = strip + 1 == strips ? a->cols : lead + (strip + 1) * STRIP;
#define WRITE(u, v, i, count)                                                                                   \
    do {                                                                                                        \
        fetch_row(stream, a, x, row, ahead, 1, 2, u, i);                                                        \
        V y = v_fma(v_sub(v, map.pivot), map.scale, map.shift);                                                 \
        V w = weight_at(weight, i, count, one), b = weight_at(bias, i, count, zero);                            \
        put_some(type, stream, out, i, count, v_fma(y, w, b));                                                  \
    } while (0)
    FOR_OUTPUT(stream, type, x, out, from, to, WRITE);
#undef WRITE
}

TARGET NPK_INLINE void layernorm(const int type, const bool stream, const rows_args *a, int64_t row, int64_t rows) {
    row_map maps[BUNDLE];
    for (int64_t r = 0; r < rows; r++)
        maps[r] = map_of(type, stream, a, row + r, BUNDLE);
    const int64_t strips = a->cols < STRIP ? 1 : a->cols / STRIP;
    for (int64_t strip = 0; strip < strips; strip++)
        for (int64_t r = 0; r < rows; r++)
            map_row(type, stream, a, row + r, BUNDLE, maps[r], strip, strips);
}

TARGET NPK_INLINE void rmsnorm(const int type, const bool stream, const rows_args *a, int64_t row) {
    const char *x = a->x + row * a->stride_x * a->bytes;
    char *out = a->out + row * a->cols * a->bytes;
    const V zero = v_set1(0.0f), one = v_set1(1.0f);
    V acc[UNROLL] = {zero, zero, zero, zero};
    if (a->residual) {
        char *residual = a->residual + row * a->cols * a->bytes;
#define JOIN(u, v, i, count)                                                                                    \
    do {                                                                                                        \
        V old = (count) == LANES ? v_load_as(type, residual, i)                                                 \
                                 : v_load_part_as(type, residual, i, count, zero);                              \
        put_some(type, false, residual, i, count, v_add(v, old));                                               \
    } while (0)
        FOR_ROW(type, x, a->cols, zero, JOIN);
#undef JOIN
        x = residual;
    }
#define ADD(u, v, i, count)                                                                                     \
    do {                                                                                                        \
        V d = v;                                                                                                \
        fetch_row(stream, a, x, row, 1, 0, 2, u, i);                                                              \
        acc[u] = v_fma(d, d, acc[u]);                                                                           \
    } while (0)
    FOR_ROW(type, x, a->cols, zero, ADD);
#undef ADD
    const V scale = v_set1((float)(1.0 / sqrt(v_hsum(sum_of(acc)) / (double)a->cols + (double)a->eps)));
    const float *weight = a->weight;
#define WRITE(u, v, i, count)                                                                                   \
    do {                                                                                                        \
        fetch_row(stream, a, x, row, 1, 1, 2, u, i);                                                              \
        put_some(type, stream, out, i, count, v_mul(v_mul(v, scale), weight_at(weight, i, count, one)));        \
    } while (0)
    FOR_OUTPUT(stream, type, x, out, 0, a->cols, WRITE);
#undef WRITE
}

/* The largest element of a row in all lanes; NaN may go unnoticed. */
TARGET NPK_INLINE V top_of(const int type, const rows_args *a, const char *x) {
    const V lowest = v_set1(-INFINITY);
    V acc[UNROLL] = {lowest, lowest, lowest, lowest};
#define MAX(u, v, i, count) acc[u] = v_max(acc[u], v)
    FOR_ROW(type, x, a->cols, lowest, MAX);
#undef MAX
    return v_set1(v_hmax(v_max(v_max(acc[0], acc[2]), v_max(acc[1], acc[3]))));
}

/* Whether every stride-th group of a row, and what follows the last, is within V_NEAR_exp_brief of 0. */
TARGET NPK_INLINE bool is_near(const int type, const rows_args *a, const char *x, int64_t stride) {
    const V zero = v_set1(0.0f);
    V size[UNROLL] = {zero, zero, zero, zero};
#define LARGEST(u, v, i, count) size[u] = v_largest_of(size[u], v_abs(v))
    FOR_GROUPS(0, stride, type, x, a->cols, LARGEST)
    FOR_REST(0, type, x, a->cols, zero, LARGEST);
#undef LARGEST
    const V all = v_largest_of(v_largest_of(size[0], size[2]), v_largest_of(size[1], size[3]));
    return v_within(all, V_NEAR_exp_brief);
}

/* exp(x), or for a logarithm exp(x - top), of all groups of a row, summed into acc and, for a binary32 quotient, kept;
 * false, and nothing of worth, when an argument is not within V_NEAR_exp_brief of 0. Each vector begins while the one
 * before it ends, see v_begun: that, two sums and the constants are what 16 registers hold. */
TARGET NPK_INLINE bool near_groups(const int type, const bool stream, const bool logarithm, const rows_args *a,
                                   int64_t row, const V top, float *kept, V acc[UNROLL]) {
    const char *x = a->x + row * a->stride_x * a->bytes;
    const int64_t end = a->cols / GROUP * GROUP;
    if (end == 0)
        return true;
    V v = v_load_as(type, x, 0), sum[2] = {acc[0], acc[1]};
    v = logarithm ? v_sub(v, top) : v;
    V size = v_abs(v);
    v_begun next = v_exp_brief_begin(v);
    for (int64_t i = 0; i < end; i += 2 * LANES) {
        NPK_UNROLL
        for (int u = 0; u < 2; u++) {
            const int64_t at = i + u * LANES;
            const v_begun now = next;
            v = v_load_as(type, x, npk_min(at + LANES, end - LANES));
            v = logarithm ? v_sub(v, top) : v;
            size = v_largest_of(size, v_abs(v));
            next = v_exp_brief_begin(v);
            V e = v_exp_brief_end(v, now);
            fetch_row(stream, a, x, row, 1, 0, 1, u, at);
            sum[u] = v_add(sum[u], e);
            if (type == NPK_FP32 && !logarithm)
                v_store(kept + at, e);
        }
    }
    acc[0] = sum[0];
    acc[1] = sum[1];
    return v_within(size, V_NEAR_exp_brief);
}

typedef bool (*near_run)(const rows_args *a, int64_t row, V top, float *kept, V acc[UNROLL]);

/* Place for SCRATCH floats in `scratch`, aligned, and half a page from x modulo pages: a CPU that compares the lower bits
 * of addresses first takes loads for such as wait for a store. */
enum { PAGE = 1024 };
NPK_INLINE float *half_a_page_from(const char *x, float *scratch) {
    uintptr_t floats = ((uintptr_t)x - (uintptr_t)scratch) / sizeof(float) + PAGE / 2;
    float *place = scratch + LANES + floats % PAGE;
    return place - (uintptr_t)place / sizeof(float) % LANES;
}

/* exp(x - top) / sum, or x - top - log(sum). A binary32 quotient keeps its exponentials between the passes, in the output
 * or in `scratch`; a 16-bit one computes them again, to be rounded once. When the elements are near 0, a quotient does with
 * a top of 0, which cancels; a logarithm does not, as log(sum) would be inexact where the result is next to 0. Returns
 * false, and leaves the row, when `near` is wrong. */
TARGET NPK_INLINE bool exponentials_of(const int type, const bool stream, const bool logarithm, const bool near,
                                       const near_run near_groups, const rows_args *a, int64_t row) {
    const char *x = a->x + row * a->stride_x * a->bytes;
    char *out = a->out + row * a->cols * a->bytes;
    const V zero = v_set1(0.0f), lowest = v_set1(-INFINITY), top = near && !logarithm ? zero : top_of(type, a, x);
    const bool keep = type == NPK_FP32 && !logarithm, shift = logarithm || !near;
    float scratch[SCRATCH + PAGE + LANES], *kept = a->cols <= SCRATCH ? half_a_page_from(x, scratch) : (float *)out;
    V acc[UNROLL] = {zero, zero, zero, zero};
#define ADD(u, v, i, count)                                                                                     \
    do {                                                                                                        \
        V e = v_exp_brief(shift ? v_sub(v, top) : v);                                                           \
        acc[u] = v_add(acc[u], e);                                                                              \
        if (keep)                                                                                               \
            put_some(NPK_FP32, false, kept, i, count, e);                                                       \
    } while (0)
    if (!near)
        FOR_GROUPS(0, 1, type, x, a->cols, ADD)
    else if (!near_groups(a, row, top, kept, acc))
        return false;
    FOR_REST(0, type, x, a->cols, lowest, ADD);
#undef ADD
    const float sum = v_hsum(sum_of(acc));
    const V scale = v_set1((float)(1.0 / sum)), log_sum = v_set1((float)log(sum));
#define WRITE(u, v, i, count)                                                                                   \
    do {                                                                                                        \
        V loaded = v;                                                                                           \
        V y = logarithm ? v_sub(v_sub(loaded, top), log_sum)                                                    \
                        : v_mul(keep ? loaded : v_exp_brief(shift ? v_sub(loaded, top) : loaded), scale);       \
        put_some(type, stream, out, i, count, y);                                                               \
    } while (0)
    const void *source = keep ? (const void *)kept : x;
    FOR_OUTPUT(stream, type, source, out, 0, a->cols, WRITE);
#undef WRITE
    return true;
}

/* A row near 0 takes two passes, without its maximum. That it is near is known for sure when the first is done, so that a
 * mask at either end is looked for before it; the whole row when there is no place for the exponentials but x. */
TARGET NPK_INLINE void softmax(const int type, const bool stream, const bool logarithm, const near_run near_groups,
                               const rows_args *a, int64_t row) {
    const char *x = a->x + row * a->stride_x * a->bytes;
    const bool overwrites = a->out == a->x && a->cols > SCRATCH;
    const int64_t to_last = a->cols / GROUP - 1;
    if (!is_near(type, a, x, overwrites || to_last < 1 ? 1 : to_last)
        || !exponentials_of(type, stream, logarithm, true, near_groups, a, row))
        exponentials_of(type, stream, logarithm, false, near_groups, a, row);
}

#define RUN(name, format, stream, ...)                                                                          \
    TARGET static void name##_##format(const rows_args *a, int64_t row, int64_t end) {                          \
        for (; row < end; row++)                                                                                \
            __VA_ARGS__;                                                                                        \
        if (stream)                                                                                             \
            v_fence();                                                                                          \
    }
#define NORM(name, format, type, stream) RUN(name, format, stream, name(type, stream, a, row))
#define LAYERNORM(name, format, type, stream)                                                                   \
    TARGET static void name##_##format(const rows_args *a, int64_t row, int64_t end) {                          \
        for (; row < end; row += BUNDLE)                                                                        \
            name(type, stream, a, row, npk_min(BUNDLE, end - row));                                             \
        if (stream)                                                                                             \
            v_fence();                                                                                          \
    }
/* near_groups is a function of its own, in which no other loop's constants take registers from its sums. */
#define SOFTMAX(name, format, type, stream, logarithm)                                                          \
    TARGET static __attribute__((noinline)) bool name##_near_##format(const rows_args *a, int64_t row, V top,   \
                                                                      float *kept, V acc[UNROLL]) {             \
        return near_groups(type, stream, logarithm, a, row, top, kept, acc);                                    \
    }                                                                                                           \
    RUN(name, format, stream, softmax(type, stream, logarithm, name##_near_##format, a, row))
#define OP(KIND, name, ...)                                                                                     \
    KIND(name, fp32, NPK_FP32, false, ##__VA_ARGS__)                                                            \
    KIND(name, bf16, NPK_BF16, false, ##__VA_ARGS__)                                                            \
    KIND(name, fp16, NPK_FP16, false, ##__VA_ARGS__)                                                            \
    KIND(name, streamed, NPK_FP32, true, ##__VA_ARGS__)
OP(LAYERNORM, layernorm)
OP(NORM, rmsnorm)
OP(SOFTMAX, softmax, false)
OP(SOFTMAX, log_softmax, true)

#define ENTRY(name) {name##_fp32, name##_bf16, name##_fp16, name##_streamed}
static const rows_table TABLE = {ENTRY(layernorm), ENTRY(rmsnorm), ENTRY(softmax), ENTRY(log_softmax)};

/* One row of each op, once for all instruction sets; the including file has included a vmath header.
 *
 * Sums run over UNROLL vectors of partial sums, element i in lane i mod (UNROLL LANES) until less than that are
 * left, then in lane i mod LANES; partial sums are added as a tree (v_hsum). */
#include "../common/vtypes.h"

#include <math.h>

enum { UNROLL = 4 };

TARGET NPK_INLINE V sum_of(const V acc[UNROLL]) { return v_add(v_add(acc[0], acc[2]), v_add(acc[1], acc[3])); }

/* Calls STEP(u, v, i, count) for all vectors v of the row from element `from` on, u the partial sum to use, i the first
 * element; the last vector, of count < LANES elements, is filled up with `fill`. */
#define FOR_ROW_FROM(from, type, x, cols, fill, STEP)                                                           \
    do {                                                                                                        \
        int64_t i = from;                                                                                       \
        for (; i + UNROLL * LANES <= cols; i += UNROLL * LANES) {                                               \
            NPK_UNROLL                                                                                          \
            for (int u = 0; u < UNROLL; u++)                                                                    \
                STEP(u, v_load_as(type, x, i + u * LANES), i + u * LANES, LANES);                               \
        }                                                                                                       \
        for (; i + LANES <= cols; i += LANES)                                                                   \
            STEP(0, v_load_as(type, x, i), i, LANES);                                                           \
        if (i < cols)                                                                                           \
            STEP(0, v_load_part_as(type, x, i, cols - i, fill), i, cols - i);                                   \
    } while (0)
#define FOR_ROW(type, x, cols, fill, STEP) FOR_ROW_FROM(0, type, x, cols, fill, STEP)

/* Asks L2 for a cache line of the next row, so that it comes from memory while this row, which is in the caches, is
 * worked on. Pass `part` of `parts` calls it at every vector, and asks for its share of the row. */
TARGET NPK_INLINE void fetch_next(const bool stream, const rows_args *a, const char *x, int64_t row, const int part,
                                  const int parts, const int u, int64_t i) {
    if (stream && u * LANES % (16 * parts) == 0 && row + 1 < a->rows)
        __builtin_prefetch(x + (a->stride_x + (a->cols * part + i) / parts) * (int64_t)sizeof(float), 0, 2);
}

/* v to `out` from element i on; count < LANES at the end of a row. */
TARGET NPK_INLINE void put_some(const int type, const bool stream, void *out, int64_t i, int64_t count, V v) {
    if (count == LANES)
        v_put(type, stream, out, i, v);
    else
        v_store_part_as(type, out, i, count, v);
}

TARGET NPK_INLINE V weight_at(const float *weight, int64_t i, int64_t count, V absent) {
    if (!weight)
        return absent;
    return count == LANES ? v_load(weight + i) : v_load_part(weight + i, count, absent);
}

/* Two passes with the correction of Chan, Golub and LeVeque (1983): the second sums d = x - mean and d^2 and
 * takes from both what the rounding of the first mean left, so that rows whose mean is far above their spread
 * keep their accuracy. */
TARGET NPK_INLINE void layernorm(const int type, const bool stream, const rows_args *a, int64_t row) {
    const char *x = a->x + row * a->stride_x * a->bytes;
    char *out = a->out + row * a->cols * a->bytes;
    const V zero = v_set1(0.0f), one = v_set1(1.0f);
    V first[UNROLL] = {zero, zero, zero, zero}, second[UNROLL] = {zero, zero, zero, zero};
#define ADD(u, v, i, count) first[u] = v_add(first[u], v)
    FOR_ROW(type, x, a->cols, zero, ADD);
#undef ADD
    const V mean = v_set1((float)(v_hsum(sum_of(first)) / (double)a->cols));
    NPK_UNROLL
    for (int u = 0; u < UNROLL; u++)
        first[u] = zero;
#define ADD(u, v, i, count)                                                                                     \
    do {                                                                                                        \
        fetch_next(stream, a, x, row, 0, 2, u, i);                                                              \
        V d = v_sub(v, mean);                                                                                   \
        first[u] = v_add(first[u], d);                                                                          \
        second[u] = v_fma(d, d, second[u]);                                                                     \
    } while (0)
    FOR_ROW(type, x, a->cols, mean, ADD);
#undef ADD
    double rest = v_hsum(sum_of(first)) / (double)a->cols;
    double variance = v_hsum(sum_of(second)) / (double)a->cols - rest * rest;
    const V correction = v_set1((float)rest);
    const V scale = v_set1((float)(1.0 / sqrt((variance < 0.0 ? 0.0 : variance) + (double)a->eps)));
    const float *weight = a->weight, *bias = a->bias;
#define WRITE(u, v, i, count)                                                                                   \
    do {                                                                                                        \
        fetch_next(stream, a, x, row, 1, 2, u, i);                                                              \
        V y = v_mul(v_sub(v_sub(v, mean), correction), scale);                                                  \
        V w = weight_at(weight, i, count, one), b = weight_at(bias, i, count, zero);                            \
        put_some(type, stream, out, i, count, v_fma(y, w, b));                                                  \
    } while (0)
    FOR_ROW(type, x, a->cols, zero, WRITE);
#undef WRITE
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
        fetch_next(stream, a, x, row, 0, 2, u, i);                                                              \
        acc[u] = v_fma(d, d, acc[u]);                                                                           \
    } while (0)
    FOR_ROW(type, x, a->cols, zero, ADD);
#undef ADD
    const V scale = v_set1((float)(1.0 / sqrt(v_hsum(sum_of(acc)) / (double)a->cols + (double)a->eps)));
    const float *weight = a->weight;
#define WRITE(u, v, i, count)                                                                                   \
    do {                                                                                                        \
        fetch_next(stream, a, x, row, 1, 2, u, i);                                                              \
        put_some(type, stream, out, i, count, v_mul(v_mul(v, scale), weight_at(weight, i, count, one)));        \
    } while (0)
    FOR_ROW(type, x, a->cols, zero, WRITE);
#undef WRITE
}

/* What softmax needs to know about a row. */
typedef struct {
    V top;     /* the largest element in all lanes */
    bool near; /* all elements are within V_NEAR_exp_brief of it */
} row_range;

TARGET NPK_INLINE row_range range_of(const int type, const rows_args *a, const char *x) {
    const V zero = v_set1(0.0f), lowest = v_set1(-INFINITY);
    V acc[UNROLL] = {lowest, lowest, lowest, lowest}, size[UNROLL] = {zero, zero, zero, zero};
#define MAX(u, v, i, count)                                                                                     \
    do {                                                                                                        \
        V element = v;                                                                                          \
        acc[u] = v_max(acc[u], element);                                                                        \
        size[u] = v_largest_of(size[u], v_abs(element));                                                        \
    } while (0)
    FOR_ROW(type, x, a->cols, lowest, MAX);
#undef MAX
    const V top = v_set1(v_hmax(v_max(v_max(acc[0], acc[2]), v_max(acc[1], acc[3]))));
    const V all = v_largest_of(v_largest_of(size[0], size[2]), v_largest_of(size[1], size[3]));
    return (row_range){top, v_within(v_add(all, v_abs(top)), V_NEAR_exp_brief)};
}

/* exp(x - top), all within V_NEAR_exp_brief of the top, of all whole steps of a row, summed into acc and stored when
 * `keep`; returns where the next element is. Each pair of vectors begins while the pair before it ends, see v_begun. */
TARGET NPK_INLINE int64_t near_steps(const int type, const bool stream, const bool keep, const rows_args *a,
                                     const char *x, int64_t row, const V top, float *kept, V acc[UNROLL]) {
    const int64_t step = UNROLL * LANES, end = a->cols / step * step;
    v_begun now[UNROLL / 2], next[UNROLL / 2];
    for (int u = 0; u < UNROLL / 2 && end > 0; u++)
        next[u] = v_exp_brief_begin(v_sub(v_load_as(type, x, u * LANES), top));
    for (int64_t i = 0; i < end; i += step) {
        NPK_UNROLL
        for (int half = 0; half < 2; half++) {
            int64_t at = i + half * step / 2, ahead = npk_min(at + step / 2, end - step / 2);
            NPK_UNROLL
            for (int u = 0; u < UNROLL / 2; u++) {
                now[u] = next[u];
                next[u] = v_exp_brief_begin(v_sub(v_load_as(type, x, ahead + u * LANES), top));
            }
            NPK_UNROLL
            for (int u = 0; u < UNROLL / 2; u++) {
                V e = v_exp_brief_end(top, now[u]);
                fetch_next(stream, a, x, row, 0, 1, u, at + u * LANES);
                acc[half * UNROLL / 2 + u] = v_add(acc[half * UNROLL / 2 + u], e);
                if (keep)
                    v_store(kept + at + u * LANES, e);
            }
        }
    }
    return end;
}

/* exp(x - max) / sum, or x - max - log(sum). A binary32 row keeps its exponentials between the passes, in the
 * output or in `kept`; a 16-bit one computes them again, to be rounded once. */
TARGET NPK_INLINE void exponentials_of(const int type, const bool stream, const bool logarithm, const bool near,
                                       const rows_args *a, int64_t row, const V top) {
    const char *x = a->x + row * a->stride_x * a->bytes;
    char *out = a->out + row * a->cols * a->bytes;
    const V zero = v_set1(0.0f), lowest = v_set1(-INFINITY);
    const bool keep = type == NPK_FP32 && !logarithm;
    float kept[SCRATCH];
    float *exponentials = stream ? kept : (float *)out;
    V acc[UNROLL] = {zero, zero, zero, zero};
    const int64_t done = near ? near_steps(type, stream, keep, a, x, row, top, exponentials, acc) : 0;
#define ADD(u, v, i, count)                                                                                     \
    do {                                                                                                        \
        V e = v_exp_brief(v_sub(v, top));                                                                       \
        acc[u] = v_add(acc[u], e);                                                                              \
        if (keep)                                                                                               \
            put_some(NPK_FP32, false, exponentials, i, count, e);                                               \
    } while (0)
    FOR_ROW_FROM(done, type, x, a->cols, lowest, ADD);
#undef ADD
    const float sum = v_hsum(sum_of(acc));
    const V scale = v_set1((float)(1.0 / sum)), log_sum = v_set1((float)log(sum));
#define WRITE(u, v, i, count)                                                                                   \
    do {                                                                                                        \
        V loaded = v;                                                                                           \
        V y = logarithm ? v_sub(v_sub(loaded, top), log_sum)                                                    \
                        : v_mul(keep ? loaded : v_exp_brief(v_sub(loaded, top)), scale);                        \
        put_some(type, stream, out, i, count, y);                                                               \
    } while (0)
    const void *source = keep ? (const void *)exponentials : x;
    FOR_ROW(type, source, a->cols, zero, WRITE);
#undef WRITE
}

TARGET NPK_INLINE void softmax(const int type, const bool stream, const bool logarithm, const rows_args *a,
                               int64_t row) {
    row_range range = range_of(type, a, a->x + row * a->stride_x * a->bytes);
    if (range.near)
        exponentials_of(type, stream, logarithm, true, a, row, range.top);
    else
        exponentials_of(type, stream, logarithm, false, a, row, range.top);
}

#define RUN(name, format, ...)                                                                                  \
    TARGET static void name##_##format(const rows_args *a, int64_t row) { __VA_ARGS__; }
#define OP(name, call, ...)                                                                                     \
    RUN(name, fp32, call(NPK_FP32, false, __VA_ARGS__))                                                         \
    RUN(name, bf16, call(NPK_BF16, false, __VA_ARGS__))                                                         \
    RUN(name, fp16, call(NPK_FP16, false, __VA_ARGS__))                                                         \
    RUN(name, streamed, call(NPK_FP32, true, __VA_ARGS__); v_fence())
OP(layernorm, layernorm, a, row)
OP(rmsnorm, rmsnorm, a, row)
OP(softmax, softmax, false, a, row)
OP(log_softmax, softmax, true, a, row)

#define ENTRY(name) {name##_fp32, name##_bf16, name##_fp16, name##_streamed}
static const rows_table TABLE = {ENTRY(layernorm), ENTRY(rmsnorm), ENTRY(softmax), ENTRY(log_softmax)};

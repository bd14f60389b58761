/* The two engines, once for all instruction sets.
 *
 * The including file provides the vector operations (simd_*.h), MR rows and NV vectors of the register
 * tile, MR <= LANES, and a name NPK_ENGINE for the result. */
#include <math.h>
#include <string.h>

#define NR (NV * LANES)

/* exp of x <= 0 within 2 ulp (measured over every float), 0 below -87.33, NaN for NaN: x = n ln 2 + r,
 * with ln 2 in two parts (Cody and Waite), times a polynomial (Cephes expf, S. Moshier). */
TARGET NPK_INLINE V v_exp(V x) {
    V n = v_fma(x, v_set1(1.44269504088896341f), v_set1(12582912.0f)); /* 1.5 * 2^23 rounds to an integer */
    V whole = v_sub(n, v_set1(12582912.0f));
    V r = v_fma(whole, v_set1(-0.693359375f), x);
    r = v_fma(whole, v_set1(2.12194440e-4f), r);
    V p = v_fma(v_set1(1.9875691500e-4f), r, v_set1(1.3981999507e-3f));
    p = v_fma(p, r, v_set1(8.3334519073e-3f));
    p = v_fma(p, r, v_set1(4.1665795894e-2f));
    p = v_fma(p, r, v_set1(1.6666665459e-1f));
    p = v_fma(p, r, v_set1(5.0000001201e-1f));
    p = v_add(v_fma(p, v_mul(r, r), r), v_set1(1.0f));
    return v_keep_from(x, v_set1(-87.33f), v_mul(p, v_pow2(n)));
}

/* ---- keys and values as rows of floats ---- */

TARGET NPK_INLINE V converted(const int format, const void *x, int64_t i) {
    switch (format) {
    case NPK_KV_F16: return v_from_f16((const uint16_t *)x + i);
    case NPK_KV_BF16: return v_from_bf16((const uint16_t *)x + i);
    case NPK_KV_E4M3: return v_from_e4m3((const uint8_t *)x + i);
    case NPK_KV_INT8: return v_from_int8((const int8_t *)x + i);
    default: return v_load((const float *)x + i);
    }
}

/* dst[0 ... n) = x; dst has room for whole vectors. */
TARGET NPK_INLINE void convert_as(const int format, const int size, const char *x, int64_t n, float *dst) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        v_store(dst + i, converted(format, x, i));
    if (i < n) {
        char last[LANES * 4] = {0};
        memcpy(last, x + i * size, (size_t)((n - i) * size));
        v_store(dst + i, converted(format, last, 0));
    }
}

NPK_INLINE int element_size(int format) {
    return format == NPK_KV_F32 ? 4 : format == NPK_KV_F16 || format == NPK_KV_BF16 ? 2 : 1;
}

TARGET static void convert_row(int format, const char *x, int64_t n, float *dst) {
    switch (format) {
    case NPK_KV_F16: convert_as(NPK_KV_F16, 2, x, n, dst); break;
    case NPK_KV_BF16: convert_as(NPK_KV_BF16, 2, x, n, dst); break;
    case NPK_KV_E4M3: convert_as(NPK_KV_E4M3, 1, x, n, dst); break;
    case NPK_KV_INT8: convert_as(NPK_KV_INT8, 1, x, n, dst); break;
    default:
        if (n > 0) memcpy(dst, x, (size_t)n * sizeof *dst); /* a head of no elements may have no address */
        break;
    }
}

/* Keys, or values, of one call. */
typedef struct {
    const char *x;
    const float *scale;
    int64_t block, head, row, scale_block, scale_head, scale_row, width;
} side;

NPK_INLINE side keys_of(const attn_args *a) {
    const npk_attention_shape *s = &a->s;
    return (side){a->k, a->k_scale, s->k_block, s->k_head, s->k_row, s->k_scale_block, s->k_scale_head,
                  s->k_scale_row, s->head_dim};
}
NPK_INLINE side values_of(const attn_args *a) {
    const npk_attention_shape *s = &a->s;
    return (side){a->v, a->v_scale, s->v_block, s->v_head, s->v_row, s->v_scale_block, s->v_scale_head,
                  s->v_scale_row, s->v_head_dim};
}

/* Element of x where token t lies. */
NPK_INLINE int64_t token_place(const attn_args *a, const attn_unit *u, const side *x, int64_t t) {
    return attn_block(a, u->batch, t) * x->block + u->head * x->head + t % a->s.block_size * x->row;
}

/* Tokens [t, t + count) as rows of floats: in place when they are floats in one block, else in `buffer`. */
TARGET static const float *token_rows(const attn_args *a, const attn_unit *u, const side *x, int64_t t, int64_t count,
                                      float *buffer, int64_t *stride) {
    int size = element_size(a->s.format);
    int64_t left = a->s.block_size - t % a->s.block_size, place = token_place(a, u, x, t);
    if (a->s.format == NPK_KV_F32 && count <= left) {
        *stride = x->row;
        return (const float *)x->x + place;
    }
    *stride = npk_round_up(x->width, LANES);
    for (int64_t i = 0; i < count; i++, left--, place += x->row) {
        if (left == 0) {
            left = a->s.block_size;
            place = token_place(a, u, x, t + i);
        }
        convert_row(a->s.format, x->x + place * size, x->width, buffer + i * *stride);
    }
    return buffer;
}

/* dst[i * copies ... (i + 1) * copies) = scale of token t + i; false, and nothing written, when there are no scales. */
static bool token_scales(const attn_args *a, const attn_unit *u, const side *x, int64_t t, int64_t count, int copies,
                         float *dst) {
    if (!x->scale)
        return false;
    const side scales = {.block = x->scale_block, .head = x->scale_head, .row = x->scale_row};
    for (int64_t i = 0, left = 0, place = 0; i < count; i++, left--, place += scales.row) {
        if (left == 0) {
            left = a->s.block_size - (t + i) % a->s.block_size;
            place = token_place(a, u, &scales, t + i);
        }
        for (int r = 0; r < copies; r++)
            *dst++ = x->scale[place];
    }
    return true;
}

/* ---- scores ---- */

/* x[0 ... n) *= y, up to whole vectors. */
TARGET static void multiply(float *x, const float *y, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES)
        v_store(x + i, v_mul(v_load(x + i), v_load(y + i)));
}

/* The largest of start and x, lane by lane. */
TARGET NPK_INLINE V largest(const float *x, int64_t n, V start) {
    for (int64_t i = 0; i < n; i += LANES)
        start = v_max(v_load(x + i), start);
    return start;
}

/* x[i] = exp(x[i] - base); returns the sums of the lanes. n is a multiple of LANES. */
TARGET NPK_INLINE V exp_and_sum(float *x, int64_t n, V base) {
    V sum0 = v_zero(), sum1 = v_zero();
    int64_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        V p0 = v_exp(v_sub(v_load(x + i), base)), p1 = v_exp(v_sub(v_load(x + i + LANES), base));
        v_store(x + i, p0);
        v_store(x + i + LANES, p1);
        sum0 = v_add(sum0, p0);
        sum1 = v_add(sum1, p1);
    }
    if (i < n) {
        V p = v_exp(v_sub(v_load(x + i), base));
        v_store(x + i, p);
        sum0 = v_add(sum0, p);
    }
    return v_add(sum0, sum1);
}

/* A base that exp may subtract: 0 instead of -inf, so that -inf - base stays -inf. */
NPK_INLINE float finite_base(float m) { return m == -INFINITY ? 0.0f : m; }

/* ---- tile engine ---- */

/* dst[p * width + i] = scale * row i of the block, zero for rows from `rows` on. */
static void pack_queries(const attn_args *a, const attn_unit *u, float *dst) {
    int64_t d = a->s.head_dim;
    for (int64_t r = 0; r < npk_round_up(u->rows, MR); r++) {
        const float *x = r < u->rows ? attn_query(a, u, u->row + r) : NULL;
        float *panel = dst + r / MR * MR * d + r % MR;
        for (int64_t p = 0; p < d; p++)
            panel[p * MR] = x ? x[p] * a->s.scale : 0.0f;
    }
}

/* dst[p * NR + i] = x[i * stride + p] for i < count, 0 for the other i < NR. */
static void pack_keys(const float *x, int64_t stride, int64_t count, int64_t d, float *dst) {
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        const float *x0 = x + i * stride, *x1 = x0 + stride, *x2 = x1 + stride, *x3 = x2 + stride;
        int64_t p = 0;
#if defined(__SSE2__)
        for (; p + 4 <= d; p += 4) {
            __m128 r0 = _mm_loadu_ps(x0 + p), r1 = _mm_loadu_ps(x1 + p);
            __m128 r2 = _mm_loadu_ps(x2 + p), r3 = _mm_loadu_ps(x3 + p);
            _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
            _mm_storeu_ps(dst + p * NR + i, r0);
            _mm_storeu_ps(dst + (p + 1) * NR + i, r1);
            _mm_storeu_ps(dst + (p + 2) * NR + i, r2);
            _mm_storeu_ps(dst + (p + 3) * NR + i, r3);
        }
#endif
        for (; p < d; p++) {
            float *to = dst + p * NR + i;
            to[0] = x0[p], to[1] = x1[p], to[2] = x2[p], to[3] = x3[p];
        }
    }
    for (; i < NR; i++)
        for (int64_t p = 0; p < d; p++)
            dst[p * NR + i] = i < count ? x[i * stride + p] : 0.0f;
}

/* Column panel c of dst holds dst[t * NR + j] = x[t * stride + c * NR + j], zero beyond the width. */
static void pack_values(const float *x, int64_t stride, int64_t first, int64_t count, int64_t width, float *dst) {
    for (int64_t c = 0; c < width; c += NR) {
        int64_t cols = npk_min(NR, width - c);
        float *to = dst + c * ATTN_KEYS + first * NR;
        for (int64_t t = 0; t < count; t++, to += NR) {
            if (cols == NR) {
                memcpy(to, x + t * stride + c, NR * sizeof *to);
                continue;
            }
            for (int64_t j = 0; j < NR; j++)
                to[j] = j < cols ? x[t * stride + c + j] : 0.0f;
        }
    }
}

/* acc[i][j] = sum over p < steps of a[p * step + i * row] b[p * NR + j], a chain of fused multiply-adds. */
#define PRODUCT(acc, steps, a, step, row, b)                                \
    NPK_UNROLL                                                              \
    for (int i = 0; i < MR; i++)                                            \
        NPK_UNROLL                                                          \
        for (int j = 0; j < NV; j++)                                        \
            acc[i][j] = v_zero();                                           \
    for (int64_t p = 0; p < (steps); p++) {                                 \
        V bv[NV];                                                           \
        NPK_UNROLL                                                          \
        for (int j = 0; j < NV; j++)                                        \
            bv[j] = v_load((b) + p * NR + j * LANES);                       \
        NPK_UNROLL                                                          \
        for (int i = 0; i < MR; i++) {                                      \
            V av = v_set1((a)[p * (step) + i * (row)]);                     \
            NPK_UNROLL                                                      \
            for (int j = 0; j < NV; j++)                                    \
                acc[i][j] = v_fma(av, bv[j], acc[i][j]);                    \
        }                                                                   \
    }

/* scores[i * ATTN_KEYS + j] = q row i . key j, for one panel of each. */
TARGET static void score_tile(int64_t d, const float *q, const float *k, float *scores) {
    V acc[MR][NV];
    PRODUCT(acc, d, q, MR, 1, k)
    NPK_UNROLL
    for (int i = 0; i < MR; i++)
        NPK_UNROLL
        for (int j = 0; j < NV; j++)
            v_store(scores + i * ATTN_KEYS + j * LANES, acc[i][j]);
}

/* o[i] = alpha[i] o[i] + sum over t < keys of weights[i * ATTN_KEYS + t] values[t], for one panel of columns. */
TARGET static void value_tile(int64_t keys, const float *weights, const float *values, const float *alpha, float *o,
                              int64_t ldo) {
    V acc[MR][NV];
    PRODUCT(acc, keys, weights, 1, ATTN_KEYS, values)
    NPK_UNROLL
    for (int i = 0; i < MR; i++)
        NPK_UNROLL
        for (int j = 0; j < NV; j++) {
            float *dst = o + i * ldo + j * LANES;
            v_store(dst, v_fma(v_load(dst), v_set1(alpha[i]), acc[i][j]));
        }
}

/* The packed keys [begin, begin + count) of a unit, and buffers. */
typedef struct {
    int64_t begin, count;
    float *queries, *keys, *values, *scores, *rows, *k_scale, *v_scale;
    bool has_k_scale, has_v_scale;
} tile_block;

NPK_INLINE tile_block tile_buffers(const npk_attention_shape *s, int64_t rows, int64_t ldo, float *work) {
    tile_block k = {0};
    k.queries = work;
    k.keys = k.queries + npk_round_up(rows, MR) * s->head_dim;
    k.values = k.keys + ATTN_KEYS * s->head_dim;
    k.scores = k.values + ATTN_KEYS * ldo;
    k.k_scale = k.scores + MR * ATTN_KEYS;
    k.v_scale = k.k_scale + ATTN_KEYS;
    k.rows = k.v_scale + ATTN_KEYS;
    return k;
}

static void pack_block(const attn_args *a, const attn_unit *u, tile_block *b) {
    side keys = keys_of(a), values = values_of(a);
    for (int64_t i = 0; i < b->count; i += NR) {
        int64_t stride, count = npk_min(NR, b->count - i);
        const float *x = token_rows(a, u, &keys, b->begin + i, count, b->rows, &stride);
        pack_keys(x, stride, count, keys.width, b->keys + i * keys.width);
        x = token_rows(a, u, &values, b->begin + i, count, b->rows, &stride);
        pack_values(x, stride, i, count, values.width, b->values);
    }
    b->has_k_scale = token_scales(a, u, &keys, b->begin, b->count, 1, b->k_scale);
    b->has_v_scale = token_scales(a, u, &values, b->begin, b->count, 1, b->v_scale);
}

/* Scores of row i, over the panels [from, to), become weights against the row's new maximum. */
TARGET NPK_INLINE void weigh_row(const tile_block *b, float *scores, int64_t from, int64_t to, int64_t lo, int64_t hi,
                                 float *m, float *sum) {
    if (b->has_k_scale)
        multiply(scores + from, b->k_scale + from, to - from);
    for (int64_t t = from; t < lo; t++)
        scores[t] = -INFINITY;
    for (int64_t t = hi; t < to; t++)
        scores[t] = -INFINITY;
    *m = v_largest(largest(scores + from, to - from, v_set1(*m)));
    _Alignas(64) float sums[4];
    v_sum4(exp_and_sum(scores + from, to - from, v_set1(finite_base(*m))), v_zero(), v_zero(), v_zero(), sums);
    *sum = sums[0];
    if (b->has_v_scale)
        multiply(scores + from, b->v_scale + from, to - from);
}

/* Rows [r, r + MR) of the unit against the packed keys. */
TARGET static void tile_rows(const attn_args *a, const attn_unit *u, const tile_block *b, int64_t r, attn_state st,
                             int64_t ldo) {
    int64_t d = a->s.head_dim, rows = npk_min(MR, u->rows - r), lo, hi, last_lo, last_hi;
    attn_visible(a, u->batch, u->row + r, &lo, &hi);
    attn_visible(a, u->batch, u->row + r + rows - 1, &last_lo, &last_hi);
    int64_t first = attn_max(lo - b->begin, 0), end = npk_min(last_hi - b->begin, b->count);
    if (first >= end)
        return;
    int64_t from = first / NR * NR, to = npk_round_up(end, NR);
    for (int64_t j = from; j < to; j += NR)
        score_tile(d, b->queries + r * d, b->keys + j * d, b->scores + j);

    _Alignas(64) float alpha[LANES], sums[LANES] = {0};
    V before = v_load(st.m + r);
    for (int64_t i = 0; i < rows; i++) {
        attn_visible(a, u->batch, u->row + r + i, &lo, &hi);
        weigh_row(b, b->scores + i * ATTN_KEYS, from, to, npk_min(attn_max(lo - b->begin, from), to),
                  npk_min(attn_max(hi - b->begin, from), end), st.m + r + i, sums + i);
    }
    V base = v_replace_minus_inf(v_load(st.m + r), v_zero());
    V factor = v_exp(v_sub(before, base));
    v_store(alpha, factor);
    V total = v_fma(v_load(st.l + r), factor, v_load(sums));
    float totals[LANES];
    v_store(totals, total);
    memcpy(st.l + r, totals, (size_t)rows * sizeof *totals);
    for (int64_t c = 0; c < a->s.v_head_dim; c += NR)
        value_tile(end - from, b->scores + from, b->values + c * ATTN_KEYS + from * NR, alpha, st.o + r * ldo + c, ldo);
}

static void clear_state(attn_state st, int64_t rows, int64_t ldo) {
    for (int64_t r = 0; r < rows; r++) {
        st.m[r] = -INFINITY;
        st.l[r] = 0.0f;
    }
    memset(st.o, 0, (size_t)(rows * ldo) * sizeof(float));
}

static void tile_engine(const attn_args *a, const attn_unit *u, float *work, attn_state st, int64_t ldo) {
    tile_block b = tile_buffers(&a->s, u->rows, ldo, work);
    clear_state(st, npk_round_up(u->rows, MR), ldo);
    memset(b.k_scale, 0, 2 * ATTN_KEYS * sizeof(float)); /* lanes beyond the last key are read, and masked */
    pack_queries(a, u, b.queries);
    /* Blocks of keys lie on multiples of their size, whatever the unit: bits depend on the shape alone. */
    for (b.begin = u->begin / ATTN_KEYS * ATTN_KEYS; b.begin < u->end; b.begin += ATTN_KEYS) {
        b.count = npk_min(ATTN_KEYS, u->end - b.begin);
        pack_block(a, u, &b);
        for (int64_t r = 0; r < u->rows; r += MR)
            tile_rows(a, u, &b, r, st, ldo);
    }
}

#include "engine_stream.h"

/* ---- merging ---- */

TARGET NPK_INLINE float exp_of(float x) {
    float lanes[LANES];
    v_store(lanes, v_exp(v_set1(x)));
    return lanes[0];
}

TARGET static void merge_states(attn_state st, attn_state other, int64_t rows, int64_t ldo) {
    for (int64_t r = 0; r < rows; r++) {
        float m = other.m[r] > st.m[r] ? other.m[r] : st.m[r], base = finite_base(m);
        float mine = exp_of(st.m[r] - base), theirs = exp_of(other.m[r] - base);
        V a = v_set1(mine), b = v_set1(theirs);
        float *x = st.o + r * ldo;
        const float *y = other.o + r * ldo;
        for (int64_t c = 0; c < ldo; c += LANES)
            v_store(x + c, v_fma(v_load(x + c), a, v_mul(v_load(y + c), b)));
        st.l[r] = st.l[r] * mine + other.l[r] * theirs;
        st.m[r] = m;
    }
}

static const attn_isa ISA = {MR, NR, LANES, tile_engine, stream_engine, merge_states};

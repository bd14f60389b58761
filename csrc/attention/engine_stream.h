/* The stream engine, a part of engine_simd.h: up to ATTN_STREAM_ROWS queries of one position against keys and values
 * that are read once, in place. */

/* Bytes of tokens between what is read and what is asked for: measured, see docs/kernels-attention.md. */
static const int64_t STREAM_AHEAD = 16384;

/* Tokens that lie one after another; `stride` and `ahead` are in bytes. */
typedef struct {
    const char *x;
    int64_t stride, ahead, count, width;
    bool gaps; /* between the rows */
} token_run;

/* The tokens from t on that lie one after another, up to `end`. */
static token_run run_at(const attn_args *a, const attn_unit *u, const side *x, int64_t t, int64_t end) {
    int64_t size = element_size(a->s.format), place = token_place(a, u, x, t), stride = x->row * size;
    int64_t later = x->width > 0 ? STREAM_AHEAD / attn_max(x->width * size, 64) : 0, ahead = stride * later;
    if (a->block_table && t + later < attn_length(a, u->batch))
        ahead = (token_place(a, u, x, t + later) - place) * size;
    int64_t count = npk_min(end - t, a->s.block_size - t % a->s.block_size);
    return (token_run){x->x + place * size, stride, ahead, count, x->width, stride != x->width * size};
}

/* Vector at x + i, of which `left` elements exist; the others count as zero. */
TARGET NPK_INLINE V converted_part(const int format, const char *x, int64_t i, int64_t left) {
    if (left >= LANES)
        return converted(format, x, i);
    if (format == NPK_KV_F32)
        return v_load_part((const float *)x + i, (int)left);
    char last[LANES * 2] = {0};
    memcpy(last, x + i * element_size(format), (size_t)(left * element_size(format)));
    return converted(format, last, 0);
}

/* Lines to ask for while `keys` rows are read side by side, a line of each in a step: as many, `next` apart, and `step`
 * further on in the next step. Rows without gaps between them are asked for in the order of memory, though they are
 * not read in it: what is asked for side by side comes more slowly (measured). */
typedef struct {
    const char *x;
    int64_t next, step, again;
} lines_ahead;

NPK_INLINE lines_ahead lines_after(const token_run *c, const char *x, int keys) {
    return (lines_ahead){x + c->ahead, c->gaps ? c->stride : 64, c->gaps ? 64 : 64 * keys, c->ahead / 2};
}

/* Asks L2 for the lines of one step, up to two times: it seems that a CPU with many requests under way drops some. */
NPK_INLINE void ask(const int times, const int keys, lines_ahead *lines) {
    NPK_UNROLL
    for (int n = 0; n < times * keys; n++)
        __builtin_prefetch(lines->x + n % keys * lines->next - n / keys * lines->again, 0, 2);
    lines->x += lines->step;
}

/* How often: the hardware follows one or two rows that take tokens without gaps one after another, and four rows leave
 * too little time in cache to ask twice. */
#define TIMES(gaps, rows, keys) ((gaps) ? 2 : (rows) > 2 ? 1 : (keys) > 1 ? 2 : 0)

enum {
    STREAM_KEYS = 3,                              /* most keys taken together */
    STREAM_SUMS = STREAM_KEYS * ATTN_STREAM_TILE, /* leave room for the factors in sixteen registers */
    STREAM_WEIGHTS = 48,                          /* keys whose weights are made at once: a multiple of LANES */
};

TARGET NPK_INLINE void dots_step(const int format, const int rows, const int keys, const float *q, int64_t ldq,
                                 const token_run *c, const char *x, int64_t p, int64_t left, V acc[STREAM_SUMS]) {
    V kv[STREAM_KEYS];
    NPK_UNROLL
    for (int j = 0; j < keys; j++) {
        kv[j] = converted_part(format, x + j * c->stride, p, left);
        v_hold(kv[j]);
    }
    NPK_UNROLL
    for (int i = 0; i < rows; i++) {
        V qv = v_load(q + i * ldq + p);
        NPK_UNROLL
        for (int j = 0; j < keys; j++)
            acc[j * rows + i] = v_fma(qv, kv[j], acc[j * rows + i]);
    }
}

/* scores[j * rows + i] = q[i * ldq] . row j of x: a chain of fused multiply-adds per lane, then the lanes. Up to three
 * scores beyond the last are overwritten. */
TARGET NPK_INLINE void dots(const int format, const int rows, const int keys, const int asks, const float *q,
                            int64_t ldq, const token_run *c, const char *x, float *scores) {
    const int line = 64 / element_size(format);
    lines_ahead lines = lines_after(c, x, keys);
    V acc[STREAM_SUMS];
    NPK_UNROLL
    for (int n = 0; n < STREAM_SUMS; n++)
        acc[n] = v_zero();
    int64_t p = 0;
    for (; p + line <= c->width; p += line) {
        ask(asks, keys, &lines);
        for (int i = 0; i < line; i += LANES)
            dots_step(format, rows, keys, q, ldq, c, x, p + i, LANES, acc);
    }
    for (; p < c->width; p += LANES)
        dots_step(format, rows, keys, q, ldq, c, x, p, c->width - p, acc);
    NPK_UNROLL
    for (int n = 0; n < rows * keys; n += 4)
        v_sum4(acc[n], acc[n + 1], acc[n + 2], acc[n + 3], scores + n);
}

TARGET NPK_INLINE void add_step(const int format, const int rows, const int keys, const V weights[STREAM_SUMS],
                                const token_run *c, const char *x, int64_t col, int64_t left, float *o, int64_t ldo) {
    V xv[STREAM_KEYS];
    NPK_UNROLL
    for (int j = 0; j < keys; j++)
        xv[j] = converted_part(format, x + j * c->stride, col, left);
    NPK_UNROLL
    for (int i = 0; i < rows; i++) {
        V sum = v_load(o + i * ldo + col);
        NPK_UNROLL
        for (int j = 0; j < keys; j++)
            sum = v_fma(weights[j * rows + i], xv[j], sum);
        v_store(o + i * ldo + col, sum);
    }
}

/* o[i * ldo] += sum over j < keys, in order, of w[j * rows + i] times row j of x. */
TARGET NPK_INLINE void add_rows(const int format, const int rows, const int keys, const int asks, const float *w,
                                const token_run *c, const char *x, float *o, int64_t ldo) {
    const int line = 64 / element_size(format);
    lines_ahead lines = lines_after(c, x, keys);
    V weights[STREAM_SUMS];
    NPK_UNROLL
    for (int n = 0; n < rows * keys; n++)
        weights[n] = v_set1(w[n]);
    int64_t col = 0;
    for (; col + line <= c->width; col += line) {
        ask(asks, keys, &lines);
        for (int i = 0; i < line; i += LANES)
            add_step(format, rows, keys, weights, c, x, col + i, LANES, o, ldo);
    }
    for (; col < c->width; col += LANES)
        add_step(format, rows, keys, weights, c, x, col, c->width - col, o, ldo);
}

/* Keys and values taken together (measured). Four rows take three keys, as many as registers hold, and two values,
 * which memory gives faster than three. Fewer rows of floats wait for memory, which is fastest row by row; conversions,
 * which take longer, gain by more at a time. The order of the sums is the same whatever is chosen. */
#define KEYS_OF_SCORES(format, rows) ((format) != NPK_KV_F32 || (rows) == ATTN_STREAM_TILE ? 3 : 1)
#define KEYS_OF_VALUES(format, rows) ((rows) > 1 ? 2 : (format) == NPK_KV_F32 ? 1 : 3)

TARGET NPK_INLINE void score_tokens(const int format, const int rows, const bool gaps, const token_run *c,
                                    const float *q, int64_t ldq, float *scores) {
    const int keys = KEYS_OF_SCORES(format, rows);
    int64_t j = 0;
    for (; j + keys <= c->count; j += keys)
        dots(format, rows, keys, TIMES(gaps, rows, keys), q, ldq, c, c->x + j * c->stride, scores + j * rows);
    for (; j < c->count; j++)
        dots(format, rows, 1, TIMES(gaps, rows, 1), q, ldq, c, c->x + j * c->stride, scores + j * rows);
}

TARGET NPK_INLINE void value_tokens(const int format, const int rows, const bool gaps, const token_run *c,
                                    int64_t count, const float *w, float *o, int64_t ldo) {
    const int keys = KEYS_OF_VALUES(format, rows);
    int64_t j = 0;
    for (; j + keys <= count; j += keys)
        add_rows(format, rows, keys, TIMES(gaps, rows, keys), w + j * rows, c, c->x + j * c->stride, o, ldo);
    for (; j < count; j++)
        add_rows(format, rows, 1, TIMES(gaps, rows, 1), w + j * rows, c, c->x + j * c->stride, o, ldo);
}

TARGET NPK_INLINE void score_run(const int format, const int rows, const token_run *given, const float *q, int64_t ldq,
                                 float *scores) {
    const token_run c = *given; /* a copy, because stores to floats might change *given */
    if (c.gaps && format == NPK_KV_F32) /* conversions hide how often is asked */
        score_tokens(format, rows, true, &c, q, ldq, scores);
    else
        score_tokens(format, rows, false, &c, q, ldq, scores);
}

TARGET NPK_INLINE void value_run(const int format, const int rows, const token_run *given, int64_t count,
                                 const float *w, float *o, int64_t ldo) {
    const token_run c = *given;
    if (c.gaps && format == NPK_KV_F32)
        value_tokens(format, rows, true, &c, count, w, o, ldo);
    else
        value_tokens(format, rows, false, &c, count, w, o, ldo);
}

#define STREAM_FORMAT(format)                                                                                     \
    TARGET static void scores_##format(int rows, const token_run *c, const float *q, int64_t ldq, float *to) {    \
        switch (rows) {                                                                                           \
        case 1: score_run(format, 1, c, q, ldq, to); break;                                                       \
        case 2: score_run(format, 2, c, q, ldq, to); break;                                                       \
        default: score_run(format, ATTN_STREAM_TILE, c, q, ldq, to);                                              \
        }                                                                                                         \
    }                                                                                                             \
    TARGET static void values_##format(int rows, const token_run *c, int64_t count, const float *w, float *o,     \
                                       int64_t ldo) {                                                             \
        switch (rows) {                                                                                           \
        case 1: value_run(format, 1, c, count, w, o, ldo); break;                                                 \
        case 2: value_run(format, 2, c, count, w, o, ldo); break;                                                 \
        default: value_run(format, ATTN_STREAM_TILE, c, count, w, o, ldo);                                        \
        }                                                                                                         \
    }
STREAM_FORMAT(NPK_KV_F32)
STREAM_FORMAT(NPK_KV_F16)
STREAM_FORMAT(NPK_KV_BF16)
STREAM_FORMAT(NPK_KV_E4M3)
STREAM_FORMAT(NPK_KV_INT8)

/* By number of the format. */
static void (*const SCORES[])(int, const token_run *, const float *, int64_t, float *) = {
    scores_NPK_KV_F32, scores_NPK_KV_F16, scores_NPK_KV_BF16, scores_NPK_KV_E4M3, scores_NPK_KV_INT8};
static void (*const VALUES[])(int, const token_run *, int64_t, const float *, float *, int64_t) = {
    values_NPK_KV_F32, values_NPK_KV_F16, values_NPK_KV_BF16, values_NPK_KV_E4M3, values_NPK_KV_INT8};

/* dst[i * ldq ...] = scale * query i, padded by zeros to whole vectors; rows beyond the last are zero. */
static void scale_queries(const attn_args *a, const attn_unit *u, int64_t rows, float *dst, int64_t ldq) {
    for (int64_t i = 0; i < rows; i++, dst += ldq) {
        int64_t d = i < u->rows ? a->s.head_dim : 0;
        const float *q = d > 0 ? attn_query(a, u, u->row + i) : NULL;
        for (int64_t p = 0; p < d; p++)
            dst[p] = q[p] * a->s.scale;
        for (int64_t p = d; p < ldq; p++)
            dst[p] = 0.0f;
    }
}

/* The lanes i, i + rows, ... of v belong to row i: dst[i] = their sum, or the largest of them. */
TARGET NPK_INLINE void by_row(V v, int rows, const bool sum, float *dst) {
    float lanes[LANES];
    v_store(lanes, v);
    for (int i = rows; i < LANES; i++) {
        float *to = lanes + i % rows;
        *to = sum ? *to + lanes[i] : lanes[i] > *to ? lanes[i] : *to;
    }
    memcpy(dst, lanes, (size_t)rows * sizeof *dst);
}

/* Scores of the unit's keys, scores[t * rows + i]; returns the bases of their exponentials. */
TARGET static V stream_scores(const attn_args *a, const attn_unit *u, int rows, const float *queries, int64_t ldq,
                              float *scores, float *scale, float *m) {
    side keys = keys_of(a);
    int64_t count = u->end - u->begin, padded = npk_round_up(count * rows, LANES);
    for (int64_t i = 0; i < count;) {
        token_run c = run_at(a, u, &keys, u->begin + i, u->end);
        SCORES[a->s.format](rows, &c, queries, ldq, scores + i * rows);
        i += c.count;
    }
    for (int64_t i = count * rows; i < padded; i++) {
        scores[i] = -INFINITY;
        scale[i] = 1.0f;
    }
    if (token_scales(a, u, &keys, u->begin, count, rows, scale))
        multiply(scores, scale, padded);
    by_row(largest(scores, padded, v_set1(-INFINITY)), rows, false, m);
    float bases[LANES];
    for (int i = 0; i < LANES; i++)
        bases[i] = finite_base(m[i % rows]);
    return v_load(bases);
}

/* Scores become weights, and values are added by them: a few keys at a time, so that memory idles little. */
TARGET static void stream_values(const attn_args *a, const attn_unit *u, int rows, V base, float *scores, float *scale,
                                 attn_state st, int64_t ldo) {
    side values = values_of(a);
    int64_t count = u->end - u->begin;
    bool scaled = token_scales(a, u, &values, u->begin, count, rows, scale);
    V sum = v_zero();
    token_run c = {0};
    for (int64_t i = 0, n; i < count; i += n) {
        if (i % STREAM_WEIGHTS == 0) {
            n = npk_round_up(npk_min(STREAM_WEIGHTS, count - i) * rows, LANES);
            sum = v_add(sum, exp_and_sum(scores + i * rows, n, base));
            if (scaled)
                multiply(scores + i * rows, scale + i * rows, n);
        }
        if (c.count == 0)
            c = run_at(a, u, &values, u->begin + i, u->end);
        n = npk_min(STREAM_WEIGHTS - i % STREAM_WEIGHTS, c.count);
        VALUES[a->s.format](rows, &c, n, scores + i * rows, st.o, ldo);
        c.x += n * c.stride;
        c.count -= n;
    }
    by_row(sum, rows, true, st.l);
}

/* The unit's rows, at most ATTN_STREAM_TILE, as 1, 2 or ATTN_STREAM_TILE rows, the last of which may be idle. */
TARGET static void stream_rows(const attn_args *a, const attn_unit *u, float *work, attn_state st, int64_t ldo) {
    int rows = u->rows > 2 ? ATTN_STREAM_TILE : (int)u->rows;
    int64_t ldq = npk_round_up(a->s.head_dim, LANES);
    float *scores = work + rows * ldq, *scale = scores + rows * ATTN_STREAM_KEYS + ATTN_SLACK;
    clear_state(st, rows, ldo);
    scale_queries(a, u, rows, work, ldq);
    V base = stream_scores(a, u, rows, work, ldq, scores, scale, st.m);
    stream_values(a, u, rows, base, scores, scale, st, ldo);
}

/* All rows of the unit are queries of one position, and see all its keys, at most ATTN_STREAM_KEYS: these stay in L2
 * while one tile of rows after the other reads them. */
static void stream_engine(const attn_args *a, const attn_unit *u, float *work, attn_state st, int64_t ldo) {
    for (int64_t r = 0; r < u->rows; r += ATTN_STREAM_TILE) {
        attn_unit tile = *u;
        tile.row += r;
        tile.rows = npk_min(ATTN_STREAM_TILE, u->rows - r);
        stream_rows(a, &tile, work, (attn_state){st.m + r, st.l + r, st.o + r * ldo}, ldo);
    }
}

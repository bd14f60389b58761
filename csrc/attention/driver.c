/* Checks, units of work, threads, and what becomes of the units' states. Nothing here knows an ISA. */
#include "../common/threads.h"
#include "attention.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Rows of a tile unit: its queries, its output, and a block of keys and values stay in L2 together. */
static const int64_t TILE_ROWS = 384;

/* Keys of a tile unit when there are too few rows to give every thread some. */
static const int64_t TILE_SPLIT = 2048;

/* Below this many multiply-adds a second thread costs more to start than it saves. */
static const double MIN_WORK_PER_THREAD = 1 << 19;

typedef struct {
    const attn_isa *isa;
    attn_args a;
    bool stream;
    int64_t rows, row_block, row_blocks; /* of one KV head */
    int64_t split, splits;               /* keys of a unit; units of one row block */
    int64_t ldo, state_floats, work_floats;
    float *partial; /* states of all units when splits > 1 */
    int64_t tasks;
    void (*run)(void *plan, int64_t task, float *work);
    _Atomic int64_t next;
    _Atomic int status;
} plan_t;

static attn_state state_at(const plan_t *p, float *x) {
    int64_t rows = p->row_block + ATTN_SLACK;
    return (attn_state){x, x + rows, x + 2 * rows};
}

static int64_t stream_work(const plan_t *p) {
    int64_t width = npk_round_up(p->a.s.head_dim, p->isa->lanes);
    return ATTN_STREAM_TILE * (width + 2 * ATTN_STREAM_KEYS) + 2 * ATTN_SLACK;
}

static int64_t tile_work(const plan_t *p) {
    int64_t d = p->a.s.head_dim, width = npk_round_up(attn_max(d, p->ldo), p->isa->lanes);
    return p->row_block * d + ATTN_KEYS * (d + p->ldo) + p->isa->mr * ATTN_KEYS + 2 * ATTN_KEYS + ATTN_ROWS * width
           + ATTN_SLACK;
}

/* ---- finishing ---- */

/* Computes row `row` of unit u on its own. The tile engine multiplies hidden keys by a weight of zero, which
 * is not zero for an infinity or NaN among their values; here they are not touched at all. */
static bool redo_row(const plan_t *p, const attn_unit *u, int64_t row, attn_state st, int64_t i) {
    int64_t lo, hi, width = p->ldo + ATTN_SLACK;
    attn_visible(&p->a, u->batch, row, &lo, &hi);
    float *memory = npk_alloc_floats(2 * (2 * ATTN_SLACK + width) + stream_work(p));
    if (!memory)
        return false;
    attn_state sum = {memory, memory + ATTN_SLACK, memory + 2 * ATTN_SLACK};
    float *rest = sum.o + width;
    attn_state part = {rest, rest + ATTN_SLACK, rest + 2 * ATTN_SLACK};
    float *work = part.o + width;
    bool first = true;
    for (int64_t begin = lo, end; begin < hi; begin = end) {
        end = npk_min(hi, (begin / ATTN_STREAM_KEYS + 1) * ATTN_STREAM_KEYS);
        attn_unit one = {u->batch, u->head, row, 1, begin, end};
        p->isa->stream(&p->a, &one, work, first ? sum : part, p->ldo);
        if (!first)
            p->isa->merge(sum, part, 1, p->ldo);
        first = false;
    }
    if (!first) {
        st.l[i] = sum.l[0];
        memcpy(st.o + i * p->ldo, sum.o, (size_t)p->ldo * sizeof(float));
    }
    free(memory);
    return true;
}

static bool all_finite(const float *x, int64_t n) {
    float sum = 0.0f;
    for (int64_t i = 0; i < n; i++)
        sum += x[i] * 0.0f; /* NaN for an infinity or NaN */
    return sum == 0.0f;
}

/* out = o / l; zero for a row that has seen nothing. */
static bool finish(const plan_t *p, const attn_unit *u, attn_state st) {
    const npk_attention_shape *s = &p->a.s;
    bool masked = !p->stream && (s->causal || s->window);
    for (int64_t i = 0; i < u->rows; i++) {
        int64_t row = u->row + i, head = u->head * p->a.group + row % p->a.group;
        float *out = p->a.out + ((u->batch * s->heads + head) * s->seq_q + row / p->a.group) * s->v_head_dim;
        const float *o = st.o + i * p->ldo;
        if (masked && !all_finite(o, s->v_head_dim) && !redo_row(p, u, row, st, i))
            return false;
        float l = st.l[i];
        for (int64_t c = 0; c < s->v_head_dim; c++)
            out[c] = l == 0.0f ? 0.0f : o[c] / l;
    }
    return true;
}

/* ---- tasks ---- */

/* The later rows of a causal mask see most keys and are handed out first. */
static attn_unit unit_of(const plan_t *p, int64_t block, int64_t split) {
    int64_t group = block / p->row_blocks, lo, hi, none;
    attn_unit u = {group / p->a.s.kv_heads, group % p->a.s.kv_heads, 0, 0, 0, 0};
    u.row = (p->row_blocks - 1 - block % p->row_blocks) * p->row_block;
    u.rows = npk_min(p->row_block, p->rows - u.row);
    attn_visible(&p->a, u.batch, u.row, &lo, &none);
    attn_visible(&p->a, u.batch, u.row + u.rows - 1, &none, &hi);
    u.begin = attn_max(lo, split * p->split);
    u.end = attn_max(u.begin, npk_min(hi, (split + 1) * p->split)); /* may see nothing of the split */
    return u;
}

static void compute(const plan_t *p, const attn_unit *u, float *work, attn_state st) {
    (p->stream ? p->isa->stream : p->isa->tile)(&p->a, u, work, st, p->ldo);
}

static void run_whole(void *plan, int64_t task, float *work) {
    plan_t *p = plan;
    attn_unit u = unit_of(p, task, 0);
    attn_state st = state_at(p, work + p->work_floats);
    compute(p, &u, work, st);
    if (!finish(p, &u, st))
        p->status = NPK_ENOMEM;
}

static void run_split(void *plan, int64_t task, float *work) {
    plan_t *p = plan;
    attn_unit u = unit_of(p, task / p->splits, task % p->splits);
    compute(p, &u, work, state_at(p, p->partial + task * p->state_floats));
}

static void run_merge(void *plan, int64_t block, float *work) {
    plan_t *p = plan;
    (void)work;
    attn_unit u = unit_of(p, block, 0);
    attn_state st = state_at(p, p->partial + block * p->splits * p->state_floats);
    for (int64_t i = 1; i < p->splits; i++)
        p->isa->merge(st, state_at(p, p->partial + (block * p->splits + i) * p->state_floats), u.rows, p->ldo);
    if (!finish(p, &u, st))
        p->status = NPK_ENOMEM;
}

/* One worker a thread, each with memory of its own, takes tasks until there are none. */
static void work_off(void *plan, int64_t worker) {
    plan_t *p = plan;
    (void)worker;
    float *work = npk_alloc_floats(p->work_floats + p->state_floats);
    if (!work) {
        p->status = NPK_ENOMEM;
        return;
    }
    for (int64_t task; (task = p->next++) < p->tasks;)
        p->run(p, task, work);
    free(work);
}

static int run_tasks(plan_t *p, int64_t tasks, void (*run)(void *, int64_t, float *), int threads) {
    p->tasks = tasks;
    p->run = run;
    p->next = 0;
    if (threads == 1 || tasks == 1)
        work_off(p, 0);
    else
        npk_parallel(threads, npk_min(threads, tasks), work_off, p);
    return p->status;
}

/* ---- plan ---- */

static void set_blocks(plan_t *p) {
    const npk_attention_shape *s = &p->a.s;
    p->rows = p->a.group * s->seq_q;
    p->stream = s->seq_q == 1 && p->rows <= ATTN_STREAM_ROWS;
    int64_t blocks = npk_ceil_div(p->rows, TILE_ROWS);
    p->row_block = npk_round_up(npk_ceil_div(p->rows, blocks), p->stream ? ATTN_STREAM_TILE : p->isa->mr);
    p->row_blocks = npk_ceil_div(p->rows, p->row_block);
    p->split = p->stream ? ATTN_STREAM_KEYS : p->row_blocks == 1 ? TILE_SPLIT : s->seq_kv;
    p->splits = npk_ceil_div(s->seq_kv, p->split);
    p->ldo = npk_round_up(s->v_head_dim, p->isa->nr);
    p->state_floats = 2 * (p->row_block + ATTN_SLACK) + p->row_block * p->ldo + ATTN_SLACK;
    p->work_floats = npk_round_up(p->stream ? stream_work(p) : tile_work(p), 16);
}

static int attend(plan_t *p, int threads) {
    const npk_attention_shape *s = &p->a.s;
    set_blocks(p);
    double work = (double)s->batch * (double)s->heads * (double)s->seq_q * (double)s->seq_kv
                  * (double)(s->head_dim + s->v_head_dim);
    if (work < 2 * MIN_WORK_PER_THREAD)
        threads = 1;
    int64_t blocks = s->batch * s->kv_heads * p->row_blocks, units = blocks * p->splits, floats;
    if (p->splits == 1)
        return run_tasks(p, blocks, run_whole, threads);
    if (__builtin_mul_overflow(units, p->state_floats, &floats) || !(p->partial = npk_alloc_floats(floats)))
        return NPK_ENOMEM;
    int status = run_tasks(p, units, run_split, threads);
    if (status == NPK_OK)
        status = run_tasks(p, blocks, run_merge, threads);
    free(p->partial);
    return status;
}

/* ---- checks ---- */

/* Whether the offsets, in bytes, of an operand of these sizes and strides fit an int64. */
static bool spans_fit(int dims, const int64_t *sizes, const int64_t *strides) {
    int64_t span = 0, step;
    for (int i = 0; i < dims; i++)
        if (strides[i] == INT64_MIN || __builtin_mul_overflow(sizes[i], strides[i] < 0 ? -strides[i] : strides[i], &step)
            || __builtin_add_overflow(span, step, &span))
            return false;
    return !__builtin_mul_overflow(span, (int64_t)sizeof(float), &step);
}

static bool sizes_fit(const npk_attention_shape *s) {
    int64_t q[] = {s->batch, s->heads, s->seq_q, s->head_dim}, qs[] = {s->q_batch, s->q_head, s->q_row, 1};
    int64_t k[] = {s->blocks, s->kv_heads, s->block_size, s->head_dim}, ks[] = {s->k_block, s->k_head, s->k_row, 1};
    int64_t v[] = {s->blocks, s->kv_heads, s->block_size, s->v_head_dim}, vs[] = {s->v_block, s->v_head, s->v_row, 1};
    int64_t kc[] = {s->k_scale_block, s->k_scale_head, s->k_scale_row};
    int64_t vc[] = {s->v_scale_block, s->v_scale_head, s->v_scale_row};
    int64_t width, rows, outputs;
    return spans_fit(4, q, qs) && spans_fit(4, k, ks) && spans_fit(4, v, vs) && spans_fit(3, k, kc)
           && spans_fit(3, v, vc) && s->seq_kv < INT64_MAX / 2 && s->window < INT64_MAX / 2
           && !__builtin_add_overflow(s->head_dim, s->v_head_dim, &width) && width < INT64_MAX / (1 << 16)
           && !__builtin_mul_overflow(s->batch, s->heads, &rows) && !__builtin_mul_overflow(rows, s->seq_q, &rows)
           && !__builtin_mul_overflow(rows, width, &outputs) && outputs < INT64_MAX / 8;
}

/* Whether `out` shares memory with an operand of these sizes and strides, which spans_fit has passed. */
static bool shares(const float *out, int64_t out_bytes, const void *x, int64_t bytes, int dims, const int64_t *sizes,
                   const int64_t *strides) {
    int64_t low = 0, high = 1;
    for (int i = 0; i < dims; i++) {
        int64_t step = (sizes[i] - 1) * strides[i];
        if (sizes[i] == 0)
            return false;
        *(step < 0 ? &low : &high) += step;
    }
    return x && npk_overlap((const void *)((uintptr_t)x + (uintptr_t)(low * bytes)), (high - low) * bytes, out, out_bytes);
}

static bool clashes(const attn_args *a, int64_t outputs) {
    const npk_attention_shape *s = &a->s;
    int64_t q[] = {s->batch, s->heads, s->seq_q, s->head_dim}, qs[] = {s->q_batch, s->q_head, s->q_row, 1};
    int64_t k[] = {s->blocks, s->kv_heads, s->block_size, s->head_dim}, ks[] = {s->k_block, s->k_head, s->k_row, 1};
    int64_t v[] = {s->blocks, s->kv_heads, s->block_size, s->v_head_dim}, vs[] = {s->v_block, s->v_head, s->v_row, 1};
    int64_t kc[] = {s->k_scale_block, s->k_scale_head, s->k_scale_row}, table[] = {s->batch, s->table_stride};
    int64_t vc[] = {s->v_scale_block, s->v_scale_head, s->v_scale_row}, rows[] = {s->table_stride, 1}, one = 1;
    int64_t size = s->format == NPK_KV_F32 ? 4 : s->format <= NPK_KV_BF16 ? 2 : 1, bytes = outputs * 4;
    return shares(a->out, bytes, a->q, 4, 4, q, qs) || shares(a->out, bytes, a->k, size, 4, k, ks)
           || shares(a->out, bytes, a->v, size, 4, v, vs) || shares(a->out, bytes, a->k_scale, 4, 3, k, kc)
           || shares(a->out, bytes, a->v_scale, 4, 3, v, vc) || shares(a->out, bytes, a->block_table, 4, 2, table, rows)
           || shares(a->out, bytes, a->lengths, 4, 1, table, &one);
}

static bool sizes_valid(const npk_attention_shape *s) {
    const int64_t sizes[] = {s->batch,  s->heads, s->kv_heads,   s->seq_q,        s->head_dim, s->v_head_dim,
                             s->seq_kv, s->blocks, s->block_size, s->table_stride, s->window};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (sizes[i] < 0)
            return false;
    return s->format >= NPK_KV_F32 && s->format <= NPK_KV_INT8
           && (s->heads == 0 || (s->kv_heads > 0 && s->heads % s->kv_heads == 0))
           && (s->seq_kv == 0 || s->block_size > 0);
}

/* Whether every sequence has its keys: lengths in range, and blocks that exist. */
static bool blocks_valid(const attn_args *a) {
    const npk_attention_shape *s = &a->s;
    if (!a->block_table)
        return !a->lengths && s->blocks >= s->batch && s->block_size >= s->seq_kv;
    if (!a->lengths)
        return false;
    for (int64_t b = 0; b < s->batch; b++) {
        if (a->lengths[b] < 0 || a->lengths[b] > s->seq_kv)
            return false;
        for (int64_t t = 0; t < a->lengths[b]; t += s->block_size) {
            int64_t block = attn_block(a, b, t);
            if (block < 0 || block >= s->blocks)
                return false;
        }
    }
    return true;
}

static int64_t longest(const int32_t *lengths, int64_t batch) {
    int64_t keys = 0;
    for (int64_t b = 0; b < batch; b++)
        keys = attn_max(keys, lengths[b]);
    return keys;
}

static const attn_isa *engine(int isa) {
    switch (isa) {
    case NPK_GENERIC: return attn_isa_generic();
    case NPK_AVX2: return attn_isa_avx2();
    case NPK_AVX512: return attn_isa_avx512();
    default: return NULL;
    }
}

int npk_attention(int isa, const npk_attention_shape *shape, const float *q, const void *k, const void *v,
                  const float *k_scale, const float *v_scale, const int32_t *block_table, const int32_t *lengths,
                  float *out, int threads) {
    if (!shape || isa < NPK_GENERIC || isa > NPK_AVX512 || threads < 1 || !sizes_valid(shape))
        return NPK_EINVAL;
    if (!sizes_fit(shape))
        return NPK_EOVERFLOW;
    plan_t p = {.isa = engine(isa), .a = {*shape, q, k, v, k_scale, v_scale, block_table, lengths, out, 0}};
    if (!p.isa)
        return NPK_EUNSUPPORTED;
    int64_t outputs = shape->batch * shape->heads * shape->seq_q * shape->v_head_dim;
    if (outputs == 0)
        return NPK_OK;
    if (!out)
        return NPK_EINVAL;
    if (clashes(&p.a, outputs))
        return NPK_EALIAS;
    if (shape->seq_kv > 0 && !blocks_valid(&p.a))
        return NPK_EINVAL;
    if (shape->seq_kv > 0 && lengths)
        p.a.s.seq_kv = longest(lengths, shape->batch);
    if (p.a.s.seq_kv == 0) {
        memset(out, 0, (size_t)outputs * sizeof *out);
        return NPK_OK;
    }
    if (!v || (shape->head_dim > 0 && (!q || !k)))
        return NPK_EINVAL;
    p.a.group = shape->heads / shape->kv_heads;
    return attend(&p, threads);
}

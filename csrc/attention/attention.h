/* softmax(scale Q K^T + mask) V, without ever holding the matrix of scores.
 *
 * Dao et al., "FlashAttention", arXiv:2205.14135, algorithm 1 (online softmax); splitting the keys of
 * one query over threads and merging is Dao et al., "Flash-Decoding for long-context inference", 2023.
 *
 * The rows that share a KV head, (position, head in group) position-major, form one matrix, so that
 * grouped queries read keys and values once. Work is cut into units: a block of rows of one KV head
 * times a range of keys. Two engines compute a unit: `tile` packs keys and values for a register-tiled
 * product, `stream` reads them once, in place, for the few rows of one position (decode). */
#ifndef NPK_ATTENTION_H
#define NPK_ATTENTION_H

#include "../common/npk.h"
#include "api.h"

enum {
    ATTN_KEYS = 128,       /* keys a tile unit packs at a time */
    ATTN_STREAM_KEYS = 512, /* keys of a stream unit */
    ATTN_STREAM_ROWS = 8,  /* most rows a stream unit takes */
    ATTN_STREAM_TILE = 4,  /* rows that share a read of keys and values */
    ATTN_ROWS = 32,        /* tokens the tile engine converts at a time, at most */
    ATTN_SLACK = 64,       /* floats beyond a buffer that vectors may touch */
};

typedef struct {
    npk_attention_shape s;
    const float *q;
    const void *k, *v;
    const float *k_scale, *v_scale;
    const int32_t *block_table, *lengths;
    float *out;
    int64_t group; /* query heads per KV head */
} attn_args;

/* Rows [row, row + rows) of KV head `head` of sequence `batch`, keys [begin, end). */
typedef struct {
    int64_t batch, head, row, rows, begin, end;
} attn_unit;

/* What the rows of a unit have come to: the largest score m, and l = sum of w_t and o = sum of w_t v_t with
 * w_t = exp(score_t - m). m is -inf and the sums are zero for a row that has seen nothing. */
typedef struct {
    float *m, *l, *o; /* (rows), (rows), (rows, ldo), each with ATTN_SLACK floats to spare */
} attn_state;

/* What an instruction set contributes. */
typedef struct {
    int mr, nr, lanes; /* register tile of both products, floats of a vector */
    void (*tile)(const attn_args *a, const attn_unit *u, float *work, attn_state st, int64_t ldo);
    void (*stream)(const attn_args *a, const attn_unit *u, float *work, attn_state st, int64_t ldo);
    /* st becomes what st and other have come to together. */
    void (*merge)(attn_state st, attn_state other, int64_t rows, int64_t ldo);
} attn_isa;

/* NULL when the build or the CPU lacks the instruction set. */
const attn_isa *attn_isa_generic(void);
const attn_isa *attn_isa_avx2(void);
const attn_isa *attn_isa_avx512(void);

NPK_INLINE int64_t attn_max(int64_t a, int64_t b) { return a > b ? a : b; }

NPK_INLINE int64_t attn_length(const attn_args *a, int64_t batch) {
    return a->lengths ? a->lengths[batch] : a->s.seq_kv;
}

/* The keys [lo, hi) that the query of row `row` sees: queries are the last positions of their sequence. */
NPK_INLINE void attn_visible(const attn_args *a, int64_t batch, int64_t row, int64_t *lo, int64_t *hi) {
    int64_t length = attn_length(a, batch), position = length - a->s.seq_q + row / a->group;
    *hi = a->s.causal ? npk_min(length, position + 1) : length;
    *lo = a->s.window && position >= a->s.window ? position - a->s.window + 1 : 0;
}

/* Query of a row: head `head * group + row % group` at position row / group. */
NPK_INLINE const float *attn_query(const attn_args *a, const attn_unit *u, int64_t row) {
    int64_t head = u->head * a->group + row % a->group;
    return a->q + u->batch * a->s.q_batch + head * a->s.q_head + row / a->group * a->s.q_row;
}

/* Block that holds token t; its row there is t % block_size. */
NPK_INLINE int64_t attn_block(const attn_args *a, int64_t batch, int64_t t) {
    return a->block_table ? a->block_table[batch * a->s.table_stride + t / a->s.block_size] : batch;
}

#endif

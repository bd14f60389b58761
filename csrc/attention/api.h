/* What Python calls; see attention.h. */
#ifndef NPK_ATTENTION_API_H
#define NPK_ATTENTION_API_H

#include <stdint.h>

/* Number formats of keys and values. */
enum { NPK_KV_F32 = 0, NPK_KV_F16 = 1, NPK_KV_BF16 = 2, NPK_KV_E4M3 = 3, NPK_KV_INT8 = 4 };

/* Sizes and strides. Strides count elements; the innermost dimension of q, k, v and out is contiguous.
 *
 * Keys and values lie in blocks of block_size tokens: token t of sequence b is row t % block_size of
 * block block_table[b * table_stride + t / block_size], or of block b when there is no table. */
typedef struct {
    int64_t batch, heads, kv_heads, seq_q, head_dim, v_head_dim;
    int64_t seq_kv; /* keys of every sequence when no lengths are given, else what these may not exceed */
    int64_t blocks, block_size, table_stride;
    int64_t q_batch, q_head, q_row;
    int64_t k_block, k_head, k_row, v_block, v_head, v_row;
    int64_t k_scale_block, k_scale_head, k_scale_row, v_scale_block, v_scale_head, v_scale_row;
    int64_t window; /* 0: none */
    int causal, format;
    float scale;
} npk_attention_shape;

/* out (batch, heads, seq_q, v_head_dim), C-contiguous; same bits for any thread count. Scales may be NULL;
 * block_table and lengths are NULL together for one block a sequence. */
int npk_attention(int isa, const npk_attention_shape *shape, const float *q, const void *k, const void *v,
                  const float *k_scale, const float *v_scale, const int32_t *block_table, const int32_t *lengths,
                  float *out, int threads);

#endif

/* Closed-form time of one fused attention kernel over alike sequences, as npusim/cost/tile.py has it: what an engine
 * prices at every step, where sequences, new and past tokens are the only things that change. */
#ifndef NPS_ATTENTION_H
#define NPS_ATTENTION_H

#include <stdint.h>

enum { NPS_ATTENTION_BLOCKS = 30, NPS_ATTENTION_TENSORS = 4 };

/* One operator of one layer on one chip. Times are of one run; the operator runs `count` times a step. */
typedef struct {
    double count;
    double groups;                /* of chips; each takes its part of the batch */
    double heads, kv_heads, value_dim;
    double window;                /* tokens a query sees */
    double read_bytes;            /* of a token's key and value as one KV head reads them */
    double past_bytes;            /* of the cache, read for a past token that is seen */
    double token_bytes[NPS_ATTENTION_TENSORS]; /* of each tensor with one row a new token */
    int32_t spills[NPS_ATTENTION_TENSORS];     /* it passes main memory only by what exceeds the chip's memories */
    double chip_bytes;            /* of the chip's memories */
    double pair_flops, flops_per_s;
    double pair_vector_s, row_vector_s; /* all vector units, per score and per row of queries */
    double byte_s;                /* of the slowest memory on the chip, for what passes it once */
    double dram_bytes_per_s;      /* at the pins */
    double flop_j, byte_j, dram_byte_j;
    double compute, memory;       /* sustained fractions */
    /* Below: tile fidelity. Without blocks, time is that of the slowest resource. */
    int32_t blocks, overlap;      /* of the menu that fit a core's memory; vector units work beside the engine */
    double rows[NPS_ATTENTION_BLOCKS], keys[NPS_ATTENTION_BLOCKS]; /* in the order of the menu: by rows, then keys */
    double block_s[NPS_ATTENTION_BLOCKS], softmax_s[NPS_ATTENTION_BLOCKS]; /* of a step of a core, engine and vector */
    double readers;               /* cores that one pass over a cache serves */
    double cores, buffers, cache_bytes_per_s, core_bytes_per_s, shared_bytes, shared_bytes_per_s;
    double transfer_s, latency_s;
} nps_attention;

/* Seconds (without launches) and dynamic joules of all runs of the operators of a step, one fused kernel each. */
void nps_attention_price(const nps_attention *ops, int64_t count, double batch, double new_tokens, double past,
                         double *seconds_joules);
/* The same for arrays of `points` batches, new and past tokens: double [points][2]. */
void nps_attention_prices(const nps_attention *ops, int64_t count, int64_t points, const double *batch,
                          const double *new_tokens, const double *past, double *seconds_joules);

#endif

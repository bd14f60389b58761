/* Requests on engines: continuous batching over a paged KV cache, as a discrete-event run.
 *
 * An engine runs one step after the other; a step is a batch of prompt chunks and decodes, chosen from those that run
 * and those that wait when the step begins, and it takes what the step table says. Requests are pushed in chunks in
 * the order of their arrival and leave as records, so memory grows with the requests in flight, not with all of them.
 * What happens at one moment happens together: ends of transfers and steps, then arrivals, then new steps by engine.
 * A step of a pipeline passes its stages, each of which serves one batch after the other in the order of their start.
 * All times are seconds. */
#ifndef NPS_SERVING_H
#define NPS_SERVING_H

#include <stdint.h>

#include "csrc/sim/attention.h"

enum { NPS_BATCH_DECODE_FIRST, NPS_BATCH_PREFILL_FIRST };
enum { NPS_POLICY_FCFS, NPS_POLICY_PRIORITY, NPS_POLICY_SHORTEST, NPS_POLICY_FAIR };
enum { NPS_PREEMPT_RECOMPUTE, NPS_PREEMPT_SWAP };
enum { NPS_ROUTE_ROUND_ROBIN, NPS_ROUTE_LEAST_LOADED };
enum { NPS_ROLE_MIXED, NPS_ROLE_PREFILL, NPS_ROLE_DECODE };
/* What nps_serving_run returns when it stops: all requests served, more requests wanted, a buffer to empty. */
enum { NPS_SERVING_DONE, NPS_SERVING_WANTS_REQUESTS, NPS_SERVING_SINK_FULL };
enum { NPS_SERVING_NO_MEMORY = -1, NPS_SERVING_BAD_ARGUMENT = -2, NPS_SERVING_STUCK = -3 };
enum { NPS_SERIES_BINS = 512, NPS_SERIES_COLUMNS = 11, NPS_GAP_BINS = 4608 };

/* Seconds and dynamic joules of a step, in pairs. Tables over tokens and rows are dense. That of decodes has both ends
 * of intervals that begin at integers of at most seven significant bits, because time goes up by steps where blocks of
 * keys end. Attention of prompts is priced by its formula. */
typedef struct nps_step_table {
    int64_t tokens, rows, sequences; /* largest of each */
    int64_t expansions;              /* nodes of new and past tokens of prompts */
    int64_t reaches, query;          /* intervals of past tokens of decodes; tokens a decode verifies */
    int64_t prefill_ops;             /* attention operators of prompts */
    const void *common;              /* double [tokens + 1][2]: all but attention, by new tokens of the step */
    const void *head;                /* double [rows + 1][2]: logits and sampling, by rows */
    const void *absorbed;            /* double [rows + 1][2]: what only decodes do, by their tokens */
    const void *expanded;            /* double [expansions][3]: what only prompts do; node (new and past tokens) first */
    const void *decode;              /* double [sequences + 1][reaches][2][2]: one's share, by past + query - 1 tokens */
    const nps_attention *prefill;    /* a prompt's share is that of as many like it */
    int64_t longest;                 /* past and new tokens of one sequence that the axes reach */
    double launch_s;                 /* of a step with any attention */
    double host_s;                   /* per step */
    double swap_block_s;             /* to move one block to the host or back */
    const struct nps_step_table *draft; /* of the model that drafts query - 1 tokens before a step; NULL: that is free */
} nps_step_table;

typedef struct {
    int64_t engines, prefill_engines; /* prefill_engines > 0: that many first ones only prefill, the others decode */
    int64_t max_tokens, max_sequences, blocks, decode_blocks, block_tokens;
    int32_t batching, policy, preemption, routing;
    int32_t chunked, reserve_prompt;  /* split prompts; admit only what the whole prompt fits */
    int64_t users;
    int64_t unit_tokens;              /* tokens of one prefix id, 0 without a prefix cache */
    int64_t concurrency;              /* closed loop of that many requests; 0: arrivals as pushed */
    int64_t draft_tokens;             /* speculative tokens a decode verifies */
    int64_t stages;                   /* so many engines after one another are the batches of one pipeline of as many stages */
    double stage_share;               /* of a step's time that its longest stage takes; every stage counts as that long */
    int64_t window;                   /* tokens that layers with a sliding window see, 0: none has one */
    int64_t window_parts, cache_parts; /* share of the cache of a token that lies in such layers; < 2^20 */
    double accepted_tokens;           /* tokens a decode emits on average, 1 ... 1 + draft_tokens */
    double kv_token_bytes, transfer_bytes_per_s, transfer_latency_s;
    double bin_s;                     /* first width of the bins of the series */
} nps_serving_config;

typedef struct {
    int64_t id, user, input, output, cached, preemptions, engine;
    double arrival, seen, admitted, first, last, worst_gap;
} nps_serving_record;

typedef struct {
    int64_t engine, step, prefills, decodes, prompt_tokens, tokens, running, waiting, blocks;
    double start, end, joules;
} nps_serving_step;

typedef struct {
    int64_t step, engine, request, new_tokens, past;
} nps_serving_share;

typedef struct {
    int64_t arrived, finished, steps, preemptions, output_tokens, prompt_tokens, cached_tokens, recomputed_tokens;
    int64_t live, most_live, blocks_used, blocks_counted, blocks_cached, blocks_unused, blocks_total, waiting, running;
    double now, busy_s, joules, in_system_s, waiting_s, running_s, block_s, transfer_s, bin_s, last_arrival;
    double sequence_steps, gap_s;
    /* Seconds of steps that left somebody waiting, by what kept the first of them out: the sequences of a step, its
     * tokens, or blocks of the cache. */
    double full_sequences_s, full_tokens_s, full_blocks_s;
    /* Steps with a prompt in them: how many, their decodes, their seconds; and decodes of all steps. */
    int64_t prompt_steps, prompt_step_decodes, decodes;
    double prompt_steps_s;
} nps_serving_totals;

typedef struct nps_serving nps_serving;

nps_serving *nps_serving_new(const nps_serving_config *config, const nps_step_table *first, const nps_step_table *second);
void nps_serving_free(nps_serving *s);
/* Appends requests; `hash_ends[i]` is where the prefix ids of request i end in `hashes`. */
int nps_serving_push(nps_serving *s, int64_t count, const void *arrival, const void *input, const void *output,
                     const void *user, const void *priority, const void *hash_ends, const void *hashes);
void nps_serving_end(nps_serving *s); /* no more requests will come */
/* Buffers the run fills; steps and shares may be NULL. */
int nps_serving_sinks(nps_serving *s, void *records, int64_t record_count, void *steps, int64_t step_count, void *shares,
                      int64_t share_count);
int nps_serving_run(nps_serving *s);
/* How many entries each buffer holds; empties them. */
void nps_serving_drain(nps_serving *s, void *three_counts);
void nps_serving_totals_of(const nps_serving *s, nps_serving_totals *totals);
/* Sums per bin: double [NPS_SERIES_BINS][NPS_SERIES_COLUMNS] of running, waiting, blocks, busy engines (each times
 * seconds), output tokens and joules of steps that ended, steps that began, their decodes, prompts, new tokens and those
 * of prompts; int64 [NPS_GAP_BINS] counts of gaps between tokens. */
void nps_serving_series(const nps_serving *s, void *series, void *gaps);
/* Seconds and joules of one step, for tests: pairs of new and past tokens of prompts, past tokens of decodes. */
void nps_serving_price(const nps_step_table *t, int64_t prefills, const void *new_tokens, const void *past,
                       int64_t decodes, const void *contexts, int64_t rows, void *seconds_joules);

#endif

/* What the parts of the serving run share; see serving.h. */
#ifndef NPS_SERVING_STATE_H
#define NPS_SERVING_STATE_H

#include "csrc/sim/serving.h"

/* What keeps requests waiting when a step begins. */
enum { FULL_NOTHING, FULL_SEQUENCES, FULL_TOKENS, FULL_BLOCKS };

typedef struct {
    int64_t id, user, input, output;
    double priority;
    double arrival, seen, admitted, first, last, worst_gap;
    int64_t computed, generated; /* tokens whose keys and values exist; tokens made */
    int64_t chunk;               /* new tokens in the step that runs */
    int64_t blocks;              /* its own, beside those of the prefix cache */
    int64_t swapped;             /* tokens whose blocks wait on the host */
    int64_t cached, preemptions, engine;
    double credit;               /* speculation: fraction of a token not emitted yet */
    int64_t *hashes;             /* prefix ids of the prompt */
    int32_t *held;               /* prefix entries it uses */
    int64_t hash_count, held_count, filed; /* units of the prompt that went to the prefix cache */
} request;

typedef struct {
    int32_t *slots;
    int64_t count, room;
} slot_list;

/* Prefix cache: entries of one unit each, in a hash table by id and, when nobody uses them, in order of last use. */
typedef struct {
    int64_t key;
    int32_t users, chain, older, newer;
} prefix_entry;

typedef struct {
    prefix_entry *entries;
    int32_t *buckets;
    int32_t free_entry, oldest, newest;
    int64_t mask, idle; /* idle: entries nobody uses */
} prefix_cache;

typedef struct {
    const nps_step_table *table;
    int32_t role, busy, full; /* full: FULL_ of the step that runs */
    slot_list running, fresh; /* fresh: came since the last step began */
    slot_list *waiting;   /* one heap, or one per user */
    double *served;       /* fair policy: tokens served by user */
    int64_t waiting_count, assigned;
    int64_t blocks, free_blocks, unit_blocks, unit_tokens;
    prefix_cache prefix;
    int64_t swapped_blocks; /* moved to or from the host for the next step */
    int64_t step, sending; /* sending: requests whose cache is on its way to another engine */
    double step_start, step_joules, link_free;
} engine;

typedef struct {
    double time;
    int64_t order;
    int32_t kind, index;
} moment;

typedef struct {
    double arrival, priority;
    int64_t input, output, user, hash_count, *hashes;
} pending_request;

struct nps_serving {
    nps_serving_config c;
    engine *engines;
    double *stage_free; /* by pipeline and stage: when its last batch leaves it */
    request *requests;
    int32_t *free_slots;
    int64_t room, free_count;
    pending_request *queue; /* pushed, not arrived */
    int64_t queue_head, queue_count, queue_room;
    int32_t ended;
    int64_t longest; /* tokens of a request at most */
    double last_pushed;
    moment *moments;
    int64_t moment_count, moment_room, order;
    int64_t next_engine, busy_total, waiting_total, running_total, blocks_total;
    int64_t moving_blocks; /* of requests whose cache is on its way to another engine */
    nps_serving_record *records;
    nps_serving_step *steps;
    nps_serving_share *shares;
    int64_t record_count, record_room, step_count, step_room, share_count, share_room;
    nps_serving_totals totals;
    double series[NPS_SERIES_BINS][NPS_SERIES_COLUMNS];
    int64_t gaps[NPS_GAP_BINS];
    int32_t failed; /* a status below 0 once something went wrong */
};

/* serving_memory.c */
int list_add(slot_list *list, int32_t slot);
int prefix_init(engine *e, int64_t unit_blocks);
void prefix_free(engine *e);
/* Makes the request own blocks for `tokens` tokens, the last `fresh` of them new; 0 when there are not enough. */
int blocks_grow(nps_serving *s, engine *e, request *r, int64_t tokens, int64_t fresh);
void blocks_release(nps_serving *s, engine *e, request *r);
/* Units at the start of the prompt that the cache holds, and blocks of them nobody uses now. */
int64_t prefix_find(const nps_serving *s, const engine *e, const request *r, int64_t *idle_blocks);
int prefix_take(nps_serving *s, engine *e, request *r, int64_t units);
int prefix_file(engine *e, request *r);
/* Blocks in use, counted anew. */
int64_t blocks_counted(const nps_serving *s);
/* Tokens that layers with a window see no more when those from `computed` on are next. */
static inline int64_t tokens_gone(const nps_serving_config *c, int64_t computed) {
    return c->window && computed >= c->window ? computed - c->window + 1 : 0;
}
/* Blocks of `tokens` tokens, the last `fresh` of them new, in units of all layers: whole blocks that only layers with
 * a window would keep, and no token sees any more, are given back. */
static inline int64_t blocks_held(const nps_serving_config *c, int64_t tokens, int64_t fresh) {
    int64_t gone = tokens_gone(c, tokens - fresh) / c->block_tokens;
    return (tokens + c->block_tokens - 1) / c->block_tokens - gone * c->window_parts / c->cache_parts;
}
static inline int64_t blocks_free(const engine *e) { return e->free_blocks + e->prefix.idle * e->unit_blocks; }

/* serving_schedule.c */
int wait_push(nps_serving *s, engine *e, int32_t slot);
void request_receive(nps_serving *s, engine *e, int32_t slot);
/* Chooses the next step's batch (request.chunk of those that run); how many sequences it has. */
int64_t schedule(nps_serving *s, engine *e);

/* serving_price.c */
typedef struct {
    int64_t prefills, decodes, prompt_tokens, tokens, rows;
    double seconds, joules;
} step_price;
step_price price_step(const nps_serving *s, const engine *e);

static inline int is_decode(const request *r) { return r->generated > 0 && r->input + r->generated == r->computed + 1; }

#endif

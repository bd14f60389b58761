/* Making a serving run, feeding it and reading it. */
#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "csrc/sim/serving_state.h"

static int drafts(const nps_serving_config *c, const nps_step_table *t) {
    return c->draft_tokens > 0 && t->query == 1 && !t->draft && t->tokens >= c->max_tokens &&
           t->rows >= c->max_sequences && t->sequences >= c->max_sequences;
}

static int valid(const nps_serving_config *c, const nps_step_table *t) {
    return c && t && c->engines > 0 && c->engines <= 4096 && c->prefill_engines >= 0 &&
           c->prefill_engines < c->engines && c->max_tokens > 0 && c->max_sequences > 0 &&
           c->max_sequences <= c->max_tokens && c->blocks > 0 && c->blocks < (int64_t)1 << 40 && c->decode_blocks >= 0 && c->block_tokens > 0 &&
           c->users > 0 && c->unit_tokens >= 0 && c->unit_tokens % c->block_tokens == 0 && c->concurrency >= 0 &&
           c->draft_tokens >= 0 && c->accepted_tokens >= 1 && c->bin_s > 0 &&
           c->stages > 0 && c->stage_share > 0 && c->stage_share <= 1 && c->engines % c->stages == 0 && c->prefill_engines % c->stages == 0 && c->window >= 0 &&
           c->cache_parts > 0 && c->cache_parts < 1 << 20 && c->window_parts >= 0 &&
           c->window_parts <= c->cache_parts && !(c->window && c->unit_tokens) &&
           (!c->prefill_engines || c->transfer_bytes_per_s > 0) && t->tokens >= c->max_tokens &&
           t->sequences >= c->max_sequences && t->rows >= c->max_sequences * (1 + c->draft_tokens) &&
           t->expansions > 1 && t->prefill_ops > 0 && (!t->draft || drafts(c, t->draft));
}

/* Tokens of one request that so many blocks hold at most, in steps of any size. */
static int64_t tokens_held(const nps_serving_config *c, int64_t blocks) {
    int64_t low = blocks * c->block_tokens, high = (int64_t)1 << 40;
    /* Blocks come and go at different tokens: one is left for that. */
    while (c->window && high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (blocks_held(c, middle, c->max_tokens < middle ? c->max_tokens : middle) < blocks) low = middle;
        else high = middle;
    }
    return low;
}

static int engine_init(nps_serving *s, int64_t k, const nps_step_table *first, const nps_step_table *second) {
    const nps_serving_config *c = &s->c;
    engine *e = &s->engines[k];
    e->role = !c->prefill_engines ? NPS_ROLE_MIXED : k < c->prefill_engines ? NPS_ROLE_PREFILL : NPS_ROLE_DECODE;
    e->table = e->role == NPS_ROLE_DECODE ? second : first;
    e->blocks = e->free_blocks = e->role == NPS_ROLE_DECODE ? c->decode_blocks : c->blocks;
    e->unit_tokens = c->unit_tokens;
    e->waiting = calloc((size_t)c->users, sizeof *e->waiting);
    e->served = calloc((size_t)c->users, sizeof *e->served);
    return e->waiting && e->served && prefix_init(e, c->unit_tokens / c->block_tokens);
}

nps_serving *nps_serving_new(const nps_serving_config *config, const nps_step_table *first, const nps_step_table *second) {
    if (!valid(config, first) || (config->prefill_engines && !valid(config, second))) return NULL;
    nps_serving *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->c = *config;
    s->totals.bin_s = config->bin_s;
    s->longest = first->longest;
    if (config->prefill_engines && second->longest < s->longest) s->longest = second->longest;
    int64_t blocks = config->blocks; /* the last token is never written to the cache */
    if (config->prefill_engines && config->decode_blocks < blocks) blocks = config->decode_blocks;
    int64_t room = tokens_held(config, blocks) + 1 - config->draft_tokens;
    if (room < s->longest) s->longest = room;
    s->engines = calloc((size_t)config->engines, sizeof *s->engines);
    s->stage_free = calloc((size_t)config->engines, sizeof *s->stage_free);
    if (!s->engines || !s->stage_free) {
        free(s->engines);
        free(s->stage_free);
        free(s);
        return NULL;
    }
    for (int64_t k = 0; k < config->engines; k++)
        if (!engine_init(s, k, first, second)) {
            nps_serving_free(s);
            return NULL;
        }
    return s;
}

void nps_serving_free(nps_serving *s) {
    if (!s) return;
    for (int64_t k = 0; k < s->c.engines; k++) {
        engine *e = &s->engines[k];
        for (int64_t u = 0; e->waiting && u < s->c.users; u++) free(e->waiting[u].slots);
        free(e->waiting);
        free(e->served);
        free(e->running.slots);
        free(e->fresh.slots);
        prefix_free(e);
    }
    /* Slots not in use were given up with their request. */
    for (int64_t i = 0; i < s->free_count; i++) {
        request *r = &s->requests[s->free_slots[i]];
        r->hashes = NULL, r->held = NULL;
    }
    for (int64_t i = 0; i < s->room; i++) free(s->requests[i].hashes), free(s->requests[i].held);
    for (int64_t i = 0; i < s->queue_count; i++) free(s->queue[s->queue_head + i].hashes);
    free(s->engines);
    free(s->stage_free);
    free(s->requests);
    free(s->free_slots);
    free(s->queue);
    free(s->moments);
    free(s);
}

static int queue_reserve(nps_serving *s, int64_t count) {
    if (s->queue_head) memmove(s->queue, s->queue + s->queue_head, (size_t)s->queue_count * sizeof *s->queue);
    s->queue_head = 0;
    if (s->queue_count + count <= s->queue_room) return 1;
    pending_request *grown = realloc(s->queue, (size_t)(s->queue_count + count) * sizeof *grown);
    if (!grown) return 0;
    s->queue = grown;
    s->queue_room = s->queue_count + count;
    return 1;
}

int nps_serving_push(nps_serving *s, int64_t count, const void *arrival, const void *input, const void *output,
                     const void *user, const void *priority, const void *hash_ends, const void *hashes) {
    const double *times = arrival, *importance = priority;
    const int64_t *inputs = input, *outputs = output, *users = user, *ends = hash_ends, *ids = hashes;
    if (!s || count < 0 || count > (int64_t)1 << 40 || s->ended) return NPS_SERVING_BAD_ARGUMENT;
    if (!queue_reserve(s, count)) return NPS_SERVING_NO_MEMORY;
    for (int64_t i = 0; i < count; i++) {
        int64_t first = i ? ends[i - 1] : 0, hash_count = s->c.unit_tokens ? ends[i] - first : 0;
        pending_request p = {times[i], importance[i], inputs[i], outputs[i], users[i], hash_count, NULL};
        if (p.input < 1 || p.output < 1 || p.input > s->longest || p.output > s->longest - p.input || p.user < 0 ||
            p.user >= s->c.users || hash_count < 0 || !(p.arrival >= s->last_pushed && p.arrival < DBL_MAX))
            return NPS_SERVING_BAD_ARGUMENT;
        s->last_pushed = p.arrival;
        if (hash_count) {
            p.hashes = malloc((size_t)hash_count * sizeof *p.hashes);
            if (!p.hashes) return NPS_SERVING_NO_MEMORY;
            memcpy(p.hashes, ids + first, (size_t)hash_count * sizeof *p.hashes);
        }
        s->queue[s->queue_count++] = p;
    }
    return NPS_SERVING_DONE;
}

void nps_serving_end(nps_serving *s) { s->ended = 1; }

int nps_serving_sinks(nps_serving *s, void *records, int64_t record_count, void *steps, int64_t step_count, void *shares,
                      int64_t share_count) {
    int64_t most = s->c.engines * s->c.max_sequences;
    if (!records || record_count < most || (steps && step_count < s->c.engines) || (shares && share_count < most))
        return NPS_SERVING_BAD_ARGUMENT;
    s->records = records, s->record_room = record_count;
    s->steps = steps, s->step_room = step_count;
    s->shares = shares, s->share_room = share_count;
    return NPS_SERVING_DONE;
}

void nps_serving_drain(nps_serving *s, void *three_counts) {
    int64_t *counts = three_counts;
    counts[0] = s->record_count, counts[1] = s->step_count, counts[2] = s->share_count;
    s->record_count = s->step_count = s->share_count = 0;
}

void nps_serving_totals_of(const nps_serving *s, nps_serving_totals *totals) {
    *totals = s->totals;
    totals->waiting = s->waiting_total;
    totals->running = s->running_total;
    totals->blocks_used = s->blocks_total;
    totals->blocks_counted = blocks_counted(s);
    totals->blocks_total = totals->blocks_unused = 0;
    for (int64_t k = 0; k < s->c.engines; k++) {
        totals->blocks_total += s->engines[k].blocks;
        totals->blocks_unused += s->engines[k].free_blocks;
    }
}

void nps_serving_series(const nps_serving *s, void *series, void *gaps) {
    memcpy(series, s->series, sizeof s->series);
    memcpy(gaps, s->gaps, sizeof s->gaps);
}

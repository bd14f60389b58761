/* Time and energy of a step by its table. */
#include <stddef.h>

#include "csrc/sim/serving_state.h"

enum { FINE = 64 }; /* intervals an octave */

typedef struct {
    int64_t node;
    double share; /* of what comes after */
} place;

/* Place between the first and the last integer of the interval that begins at a node; nodes are the integers of at most
 * log2(2 · FINE) significant bits. */
static inline place place_within(int64_t x) {
    int shift = 0;
    if (x >= 2 * FINE) shift = 63 - __builtin_clzll((unsigned long long)(x / FINE));
    int64_t base = x >> shift, width = (int64_t)1 << shift;
    place p = {shift * FINE + base, shift ? (double)(x - (base << shift)) / (double)(width - 1) : 0};
    return p;
}

typedef struct {
    double seconds, joules;
} pair;

static inline pair between(const double *at, int64_t stride, double share) {
    const double *next = share > 0 ? at + stride : at;
    pair p = {at[0] + share * (next[0] - at[0]), at[1] + share * (next[1] - at[1])};
    return p;
}

static inline void add(pair *sum, pair p) {
    sum->seconds += p.seconds;
    sum->joules += p.joules;
}

static inline pair decode_share(const nps_step_table *t, int64_t sequences, int64_t past) {
    place p = place_within(past + t->query - 1);
    return between((const double *)t->decode + 4 * (sequences * t->reaches + p.node), 2, p.share);
}

/* One prompt's share among `prompts`. */
static pair prefill_share(const nps_step_table *t, int64_t prompts, int64_t tokens, int64_t past) {
    double all[2], count = (double)prompts;
    nps_attention_price(t->prefill, t->prefill_ops, count, (double)tokens, (double)past, all);
    pair p = {all[0] / count, all[1] / count};
    return p;
}

/* Linear between the nodes, and beyond the last one. */
static pair expansion(const nps_step_table *t, int64_t tokens) {
    const double *rows = t->expanded, x = (double)tokens;
    int64_t low = 0, high = t->expansions - 1;
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (rows[3 * middle] <= x) low = middle;
        else high = middle;
    }
    const double *at = rows + 3 * low;
    return between(at + 1, 3, (x - at[0]) / (at[3] - at[0]));
}

/* What depends on the totals of a step only. */
static pair fixed_part(const nps_step_table *t, int64_t tokens, int64_t rows, int64_t decode_tokens, int64_t expanded) {
    pair sum = {t->host_s + t->launch_s, 0};
    add(&sum, between((const double *)t->common + 2 * tokens, 2, 0));
    add(&sum, between((const double *)t->head + 2 * rows, 2, 0));
    add(&sum, between((const double *)t->absorbed + 2 * decode_tokens, 2, 0));
    if (expanded) add(&sum, expansion(t, expanded));
    return sum;
}

/* The model that drafts takes the prompts' chunks and a token of every decode, then query - 2 times one more of those:
 * all decodes draft as many tokens, however few they still need. */
static pair total_part(const nps_step_table *t, const step_price *p, int64_t decode_tokens, int64_t expanded) {
    pair sum = fixed_part(t, p->tokens, p->rows, decode_tokens, expanded);
    if (!t->draft) return sum;
    int64_t prompt_tokens = p->tokens - decode_tokens, prompt_rows = p->rows - decode_tokens, n = p->decodes;
    add(&sum, fixed_part(t->draft, prompt_tokens + n, prompt_rows + n, n, expanded));
    pair again = n ? fixed_part(t->draft, n, n, n, 0) : (pair){0, 0};
    sum.seconds += (double)(t->query - 2) * again.seconds;
    sum.joules += (double)(t->query - 2) * again.joules;
    return sum;
}

static void add_decode(pair *sum, const nps_step_table *t, int64_t decodes, int64_t past) {
    add(sum, decode_share(t, decodes, past));
    for (int64_t k = 0; t->draft && k < t->query - 1; k++) add(sum, decode_share(t->draft, decodes, past + k));
}

static void add_prompt(pair *sum, const nps_step_table *t, int64_t prompts, int64_t tokens, int64_t past) {
    add(sum, prefill_share(t, prompts, tokens, past));
    if (t->draft) add(sum, prefill_share(t->draft, prompts, tokens, past));
}

step_price price_step(const nps_serving *s, const engine *e) {
    step_price out = {0};
    int64_t expanded = 0, decode_tokens = 0;
    for (int64_t i = 0; i < e->running.count; i++) {
        const request *r = &s->requests[e->running.slots[i]];
        if (!r->chunk) continue;
        int decode = is_decode(r);
        out.tokens += r->chunk;
        out.decodes += decode;
        out.prefills += !decode;
        if (decode) decode_tokens += r->chunk;
        else out.prompt_tokens += r->chunk, expanded += r->chunk + r->computed;
        if (decode) out.rows += r->chunk;
        else out.rows += r->computed + r->chunk == r->input + r->generated;
    }
    pair sum = total_part(e->table, &out, decode_tokens, expanded);
    for (int64_t i = 0; i < e->running.count; i++) {
        const request *r = &s->requests[e->running.slots[i]];
        if (!r->chunk) continue;
        if (is_decode(r)) add_decode(&sum, e->table, out.decodes, r->computed);
        else add_prompt(&sum, e->table, out.prefills, r->chunk, r->computed);
    }
    out.seconds = sum.seconds + (double)e->swapped_blocks * e->table->swap_block_s;
    out.joules = sum.joules;
    return out;
}

void nps_serving_price(const nps_step_table *t, int64_t prefills, const void *new_tokens, const void *past,
                       int64_t decodes, const void *contexts, int64_t rows, void *seconds_joules) {
    const int64_t *news = new_tokens, *pasts = past, *cached = contexts;
    step_price p = {.tokens = decodes * t->query, .rows = rows, .decodes = decodes};
    int64_t expanded = 0;
    for (int64_t i = 0; i < prefills; i++) p.tokens += news[i], expanded += news[i] + pasts[i];
    pair sum = total_part(t, &p, decodes * t->query, expanded);
    for (int64_t i = 0; i < prefills; i++) add_prompt(&sum, t, prefills, news[i], pasts[i]);
    for (int64_t i = 0; i < decodes; i++) add_decode(&sum, t, decodes, cached[i]);
    double *out = seconds_joules;
    out[0] = sum.seconds;
    out[1] = sum.joules;
}

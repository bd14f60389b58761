/* Which requests a step serves: those that run first, in the order of their admission, then those that wait, as
 * vLLM's scheduler does with chunked prompts (Agrawal et al., Sarathi-Serve, arXiv 2403.02310); or prompts alone
 * while there are any, then decodes. */
#include <stddef.h>

#include "csrc/sim/serving_state.h"

/* ---- who waits -------------------------------------------------------------------------------------------------- */

/* Whether x is served before y. */
static int ahead(const nps_serving *s, int32_t x, int32_t y) {
    const request *a = &s->requests[x], *b = &s->requests[y];
    if (s->c.policy == NPS_POLICY_PRIORITY && a->priority != b->priority) return a->priority < b->priority;
    if (s->c.policy == NPS_POLICY_SHORTEST && a->input != b->input) return a->input < b->input;
    return a->id < b->id;
}

static slot_list *line_of(const nps_serving *s, engine *e, const request *r) {
    return &e->waiting[s->c.policy == NPS_POLICY_FAIR ? r->user : 0];
}

/* A user who comes back is not paid for the time away (Sheng et al., Fairness in Serving LLMs, arXiv 2401.00588). */
static void lift(const nps_serving *s, engine *e, int64_t user) {
    double least = -1;
    for (int64_t u = 0; u < s->c.users; u++)
        if (e->waiting[u].count && (least < 0 || e->served[u] < least)) least = e->served[u];
    if (least > e->served[user]) e->served[user] = least;
}

int wait_push(nps_serving *s, engine *e, int32_t slot) {
    const request *r = &s->requests[slot];
    slot_list *line = line_of(s, e, r);
    if (s->c.policy == NPS_POLICY_FAIR && !line->count) lift(s, e, r->user);
    if (!list_add(line, slot)) return 0;
    int64_t i = line->count - 1;
    for (; i && ahead(s, slot, line->slots[(i - 1) / 2]); i = (i - 1) / 2) line->slots[i] = line->slots[(i - 1) / 2];
    line->slots[i] = slot;
    e->waiting_count++;
    s->waiting_total++;
    return 1;
}

/* The line whose first request is next: the user's who was served least. */
static slot_list *next_line(const nps_serving *s, engine *e) {
    if (s->c.policy != NPS_POLICY_FAIR) return e->waiting;
    int64_t best = -1;
    for (int64_t u = 0; u < s->c.users; u++)
        if (e->waiting[u].count && (best < 0 || e->served[u] < e->served[best])) best = u;
    return &e->waiting[best];
}

static void wait_pop(nps_serving *s, engine *e, slot_list *line) {
    int32_t last = line->slots[--line->count];
    int64_t i = 0, child;
    while ((child = 2 * i + 1) < line->count) {
        if (child + 1 < line->count && ahead(s, line->slots[child + 1], line->slots[child])) child++;
        if (!ahead(s, line->slots[child], last)) break;
        line->slots[i] = line->slots[child];
        i = child;
    }
    line->slots[i] = last;
    e->waiting_count--;
    s->waiting_total--;
}

/* ---- blocks for those that run ---------------------------------------------------------------------------------- */

/* Who gives way: the last admitted, or by priority the least important. */
static int64_t victim(const nps_serving *s, const engine *e) {
    int64_t worst = e->running.count - 1;
    if (s->c.policy == NPS_POLICY_PRIORITY)
        for (int64_t i = 0; i < e->running.count; i++)
            if (ahead(s, e->running.slots[worst], e->running.slots[i])) worst = i;
    return worst;
}

static void preempt(nps_serving *s, engine *e, int64_t index) {
    int32_t slot = e->running.slots[index];
    request *r = &s->requests[slot];
    for (int64_t i = index; i + 1 < e->running.count; i++) e->running.slots[i] = e->running.slots[i + 1];
    e->running.count--;
    s->running_total--;
    if (s->c.preemption == NPS_PREEMPT_SWAP) {
        r->swapped = r->computed;
        e->swapped_blocks += blocks_held(&s->c, r->computed, 0);
    } else {
        s->totals.recomputed_tokens += r->computed;
        r->computed = 0;
    }
    r->chunk = 0;
    r->preemptions++;
    s->totals.preemptions++;
    blocks_release(s, e, r);
    if (!wait_push(s, e, slot)) s->failed = NPS_SERVING_NO_MEMORY;
}

static int64_t new_tokens(const nps_serving *s, const request *r) {
    int64_t need = r->input + r->generated - r->computed;
    if (!is_decode(r)) return need;
    need += s->c.draft_tokens;
    return need < r->output - r->generated ? need : r->output - r->generated;
}

enum { PROMPTS = 1, DECODES = 2 };

/* Gives every running request of these kinds its tokens; 1 when somebody had to give way. */
static int serve_running(nps_serving *s, engine *e, int kinds, int64_t *budget) {
    int preempted = 0;
    for (int64_t i = 0; i < e->running.count && *budget > 0; i++) {
        int32_t slot = e->running.slots[i];
        request *r = &s->requests[slot];
        if (!(kinds & (is_decode(r) ? DECODES : PROMPTS))) continue;
        int64_t n = new_tokens(s, r);
        if (n > *budget) n = *budget;
        int still = 1;
        while (still && !blocks_grow(s, e, r, r->computed + n, n)) {
            int64_t v = victim(s, e);
            *budget += s->requests[e->running.slots[v]].chunk;
            still = e->running.slots[v] != slot;
            preempt(s, e, v);
            preempted = 1;
            if (v <= i) i--;
        }
        if (!still) continue;
        r->chunk = n;
        *budget -= n;
    }
    return preempted;
}

/* ---- admission -------------------------------------------------------------------------------------------------- */

/* Admits the request if its tokens and blocks are there; otherwise says which are not. */
static int32_t admit(nps_serving *s, engine *e, int32_t slot, slot_list *line, int64_t *budget) {
    request *r = &s->requests[slot];
    int64_t idle = 0, units = r->computed || r->swapped ? 0 : prefix_find(s, e, r, &idle);
    int64_t start = r->swapped ? r->swapped : r->computed ? r->computed : units * s->c.unit_tokens;
    int64_t all = r->input + r->generated, need = all - start;
    int64_t n = need < *budget ? need : *budget;
    if (n < need && !s->c.chunked && *budget < s->c.max_tokens) return FULL_TOKENS;
    int64_t tokens = s->c.reserve_prompt ? all : start + n, fresh = tokens - start;
    if (fresh > s->c.max_tokens) fresh = s->c.max_tokens; /* of its last step */
    int64_t blocks = blocks_held(&s->c, tokens, fresh) - units * e->unit_blocks;
    if (blocks > blocks_free(e) - idle) return FULL_BLOCKS;
    wait_pop(s, e, line);
    if (!prefix_take(s, e, r, units) || !list_add(&e->running, slot)) s->failed = NPS_SERVING_NO_MEMORY;
    r->computed = start;
    if (r->swapped) e->swapped_blocks += blocks_held(&s->c, start, 0);
    r->swapped = 0;
    blocks_grow(s, e, r, tokens, fresh);
    r->chunk = n;
    *budget -= n;
    s->running_total++;
    if (r->admitted < 0) {
        r->admitted = s->totals.now;
        r->cached = units * s->c.unit_tokens;
        e->served[s->c.policy == NPS_POLICY_FAIR ? r->user : 0] += (double)r->input;
    }
    s->totals.cached_tokens += units * s->c.unit_tokens;
    return FULL_NOTHING;
}

/* Admits in the order of the policy; what keeps the first of those out who still wait then. */
static int32_t admit_waiting(nps_serving *s, engine *e, int64_t *budget) {
    while (e->waiting_count) {
        if (e->running.count >= s->c.max_sequences) return FULL_SEQUENCES;
        if (*budget <= 0) return FULL_TOKENS;
        slot_list *line = next_line(s, e);
        int32_t full = admit(s, e, line->slots[0], line, budget);
        if (full) return full;
    }
    return FULL_NOTHING;
}

int64_t schedule(nps_serving *s, engine *e) {
    int64_t budget = s->c.max_tokens;
    if (s->c.batching == NPS_BATCH_DECODE_FIRST) {
        e->full = serve_running(s, e, PROMPTS | DECODES, &budget) ? FULL_BLOCKS : admit_waiting(s, e, &budget);
    } else {
        e->full = serve_running(s, e, PROMPTS, &budget) ? FULL_BLOCKS : admit_waiting(s, e, &budget);
        if (budget == s->c.max_tokens) serve_running(s, e, DECODES, &budget);
    }
    int64_t served = 0;
    for (int64_t i = 0; i < e->running.count; i++) served += s->requests[e->running.slots[i]].chunk > 0;
    return served;
}

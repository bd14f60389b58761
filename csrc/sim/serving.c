/* The event loop of the serving run and its accounts; see serving.h for the rules. */
#include "csrc/sim/serving.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "csrc/sim/serving_state.h"

enum { STEP_ENDS, TRANSFER_ENDS };
enum { RUNNING, WAITING, BLOCKS, BUSY, TOKENS, JOULES, STEPS, DECODES, PROMPTS, NEW_TOKENS, PROMPT_TOKENS };
static const double OUTPUT_WEIGHT = 2; /* of a token made against a token read, for fairness */

/* ---- moments ---------------------------------------------------------------------------------------------------- */

static int sooner(const moment *x, const moment *y) {
    return x->time != y->time ? x->time < y->time : x->order < y->order;
}

static void moment_push(nps_serving *s, double time, int32_t kind, int32_t index) {
    if (s->moment_count == s->moment_room) {
        int64_t room = s->moment_room ? 2 * s->moment_room : 64;
        moment *grown = realloc(s->moments, (size_t)room * sizeof *grown);
        if (!grown) {
            s->failed = NPS_SERVING_NO_MEMORY;
            return;
        }
        s->moments = grown;
        s->moment_room = room;
    }
    moment new = {time, s->order++, kind, index};
    int64_t i = s->moment_count++;
    for (; i && sooner(&new, &s->moments[(i - 1) / 2]); i = (i - 1) / 2) s->moments[i] = s->moments[(i - 1) / 2];
    s->moments[i] = new;
}

static moment moment_pop(nps_serving *s) {
    moment first = s->moments[0], last = s->moments[--s->moment_count];
    int64_t i = 0, child;
    while ((child = 2 * i + 1) < s->moment_count) {
        if (child + 1 < s->moment_count && sooner(&s->moments[child + 1], &s->moments[child])) child++;
        if (!sooner(&s->moments[child], &last)) break;
        s->moments[i] = s->moments[child];
        i = child;
    }
    s->moments[i] = last;
    return first;
}

/* ---- accounts --------------------------------------------------------------------------------------------------- */

static void fold_series(nps_serving *s) {
    for (int64_t i = 0; i < NPS_SERIES_BINS; i++)
        for (int64_t k = 0; k < NPS_SERIES_COLUMNS; k++)
            s->series[i][k] = 2 * i + 1 < NPS_SERIES_BINS ? s->series[2 * i][k] + s->series[2 * i + 1][k] : 0;
    s->totals.bin_s *= 2;
}

static int64_t bin_of(nps_serving *s, double time) {
    while (time >= s->totals.bin_s * NPS_SERIES_BINS) fold_series(s);
    return (int64_t)(time / s->totals.bin_s);
}

/* Moves the clock; what held since the last moment is added up. */
static void advance(nps_serving *s, double time) {
    nps_serving_totals *t = &s->totals;
    double rates[4] = {(double)s->running_total, (double)s->waiting_total, (double)s->blocks_total, (double)s->busy_total};
    double span = time - t->now;
    t->running_s += rates[RUNNING] * span;
    t->waiting_s += rates[WAITING] * span;
    t->block_s += rates[BLOCKS] * span;
    t->busy_s += rates[BUSY] * span;
    t->in_system_s += (double)t->live * span;
    int64_t last = bin_of(s, time);
    for (int64_t bin = bin_of(s, t->now); t->now < time; bin++) {  // counted, not divided: an edge may round down
        double end = bin >= last ? time : (double)(bin + 1) * t->bin_s;
        if (end < t->now) end = t->now;
        for (int64_t k = 0; k < 4; k++) s->series[bin][k] += rates[k] * (end - t->now);
        t->now = end;
    }
}

/* Logarithmic bins of the gaps between tokens: 128 an octave from 2^-20 s. */
static void count_gap(nps_serving *s, double gap, int64_t tokens) {
    union { double number; uint64_t bits; } u = {gap};
    int64_t bin = (int64_t)(u.bits >> (52 - 7)) - ((int64_t)(1023 - 20) << 7);
    s->gaps[bin < 0 ? 0 : bin >= NPS_GAP_BINS ? NPS_GAP_BINS - 1 : bin] += tokens;
    s->totals.gap_s += gap * (double)tokens;
}

/* ---- requests --------------------------------------------------------------------------------------------------- */

static int32_t new_slot(nps_serving *s) {
    if (!s->free_count) {
        int64_t room = s->room ? 2 * s->room : 256;
        request *grown = realloc(s->requests, (size_t)room * sizeof *grown);
        if (grown) s->requests = grown;
        int32_t *slots = realloc(s->free_slots, (size_t)room * sizeof *slots);
        if (slots) s->free_slots = slots;
        if (!grown || !slots) {
            s->failed = NPS_SERVING_NO_MEMORY;
            return -1;
        }
        for (int64_t i = room; i-- > s->room;) s->free_slots[s->free_count++] = (int32_t)i;
        s->room = room;
    }
    return s->free_slots[--s->free_count];
}

static engine *route(nps_serving *s, int64_t first, int64_t past) {
    int64_t best = first;
    if (s->c.routing == NPS_ROUTE_ROUND_ROBIN) {
        best = first + s->next_engine++ % (past - first);
    } else {
        for (int64_t k = first + 1; k < past; k++)
            if (s->engines[k].assigned < s->engines[best].assigned) best = k;
    }
    return &s->engines[best];
}

static void join(nps_serving *s, engine *e, int32_t slot) {
    s->requests[slot].engine = e - s->engines;
    e->assigned++;
    if (!wait_push(s, e, slot) || !list_add(&e->fresh, slot)) s->failed = NPS_SERVING_NO_MEMORY;
}

/* The next request of the queue enters the system. */
static void arrive(nps_serving *s, double time) {
    int32_t slot = new_slot(s);
    if (slot < 0) return;
    pending_request p = s->queue[s->queue_head++];
    s->queue_count--;
    request r = {.id = s->totals.arrived++, .user = p.user, .input = p.input, .output = p.output, .priority = p.priority,
                 .arrival = time, .seen = -1, .admitted = -1, .first = -1, .hashes = p.hashes,
                 .hash_count = p.hash_count};
    s->requests[slot] = r;
    s->totals.last_arrival = time;
    if (++s->totals.live > s->totals.most_live) s->totals.most_live = s->totals.live;
    join(s, route(s, 0, s->c.prefill_engines ? s->c.prefill_engines : s->c.engines), slot);
}

static void finish(nps_serving *s, int32_t slot) {
    request *r = &s->requests[slot];
    nps_serving_record record = {r->id, r->user, r->input, r->output, r->cached, r->preemptions, r->engine, r->arrival,
                                 r->seen, r->admitted, r->first, r->last, r->worst_gap};
    s->records[s->record_count++] = record;
    free(r->hashes);
    free(r->held);
    s->free_slots[s->free_count++] = slot;
    s->totals.finished++;
    s->totals.live--;
}

/* The prompt's keys and values leave for a decoding engine, one request after the other on this engine's link. */
static void send(nps_serving *s, engine *e, int32_t slot) {
    request *r = &s->requests[slot];
    double gone = (double)(tokens_gone(&s->c, r->computed) * s->c.window_parts) / (double)s->c.cache_parts;
    double seconds = ((double)r->computed - gone) * s->c.kv_token_bytes / s->c.transfer_bytes_per_s +
                     s->c.transfer_latency_s;
    double begin = s->totals.now > e->link_free ? s->totals.now : e->link_free;
    e->link_free = begin + seconds;
    s->totals.transfer_s += e->link_free - s->totals.now;
    s->moving_blocks += r->blocks;
    e->sending++;
    moment_push(s, e->link_free, TRANSFER_ENDS, slot);
}

static void transfer_ends(nps_serving *s, int32_t slot) {
    request *r = &s->requests[slot];
    engine *from = &s->engines[r->engine];
    s->moving_blocks -= r->blocks;
    from->sending--;
    blocks_release(s, from, r);
    from->assigned--;
    join(s, route(s, s->c.prefill_engines, s->c.engines), slot);
}

/* ---- steps ------------------------------------------------------------------------------------------------------ */

/* Tokens a decode emits: the mean over time is exact, without chance. */
static int64_t accepted(const nps_serving *s, request *r) {
    if (!s->c.draft_tokens) return 1;
    r->credit += s->c.accepted_tokens;
    int64_t tokens = (int64_t)r->credit, left = r->output - r->generated;
    r->credit -= (double)tokens;
    if (tokens > r->chunk) tokens = r->chunk;
    return tokens < left ? tokens : left;
}

static void emit(nps_serving *s, engine *e, request *r, int64_t tokens) {
    double now = s->totals.now;
    if (!r->generated) {
        r->first = now;
    } else {
        double gap = now - r->last;
        if (gap > r->worst_gap) r->worst_gap = gap;
        count_gap(s, gap / (double)tokens, tokens);
    }
    r->last = now;
    r->generated += tokens;
    s->totals.output_tokens += tokens;
    s->series[bin_of(s, now)][TOKENS] += (double)tokens;
    e->served[s->c.policy == NPS_POLICY_FAIR ? r->user : 0] += OUTPUT_WEIGHT * (double)tokens;
}

/* What the step has made of one request; 0 when it leaves the engine. */
static int progress(nps_serving *s, engine *e, int32_t slot) {
    request *r = &s->requests[slot];
    if (!r->chunk) return 1;
    int64_t tokens = 0;
    if (is_decode(r)) {
        tokens = accepted(s, r);
        r->computed += tokens;
    } else {
        s->totals.prompt_tokens += r->chunk;
        r->computed += r->chunk;
        tokens = r->computed == r->input + r->generated;
    }
    if (!prefix_file(e, r)) s->failed = NPS_SERVING_NO_MEMORY;
    r->chunk = 0;
    if (tokens) emit(s, e, r, tokens);
    if (r->generated == r->output) {
        blocks_release(s, e, r);
        e->assigned--;
        finish(s, slot);
        return 0;
    }
    if (e->role != NPS_ROLE_PREFILL || !tokens) return 1;
    send(s, e, slot);
    return 0;
}

static void step_ends(nps_serving *s, engine *e) {
    int64_t kept = 0;
    e->busy = 0;
    s->busy_total--;
    s->totals.joules += e->step_joules;
    s->series[bin_of(s, s->totals.now)][JOULES] += e->step_joules;
    for (int64_t i = 0; i < e->running.count; i++) {
        int32_t slot = e->running.slots[i];
        if (progress(s, e, slot)) e->running.slots[kept++] = slot;
    }
    s->running_total -= e->running.count - kept;
    e->running.count = kept;
}

static void log_step(nps_serving *s, engine *e, const step_price *p, double end) {
    if (!s->steps) return;
    nps_serving_step row = {e - s->engines, e->step, p->prefills, p->decodes, p->prompt_tokens, p->tokens,
                            e->running.count, e->waiting_count, e->blocks - blocks_free(e), s->totals.now,
                            end, p->joules};
    s->steps[s->step_count++] = row;
    for (int64_t i = 0; s->shares && i < e->running.count; i++) {
        const request *r = &s->requests[e->running.slots[i]];
        nps_serving_share share = {e->step, e - s->engines, r->id, r->chunk, r->computed};
        if (r->chunk) s->shares[s->share_count++] = share;
    }
}

/* What the step is made of, and what kept others out of it. */
static void count_step(nps_serving *s, const engine *e, const step_price *p, double end) {
    nps_serving_totals *t = &s->totals;
    const double seconds = end - t->now;
    double *bin = s->series[bin_of(s, t->now)];
    t->steps++;
    t->sequence_steps += (double)(p->prefills + p->decodes);
    bin[STEPS]++;
    bin[DECODES] += (double)p->decodes;
    bin[PROMPTS] += (double)p->prefills;
    bin[NEW_TOKENS] += (double)p->tokens;
    bin[PROMPT_TOKENS] += (double)p->prompt_tokens;
    t->decodes += p->decodes;
    if (p->prefills) {
        t->prompt_steps++;
        t->prompt_step_decodes += p->decodes;
        t->prompt_steps_s += seconds;
    }
    if (e->full == FULL_SEQUENCES) t->full_sequences_s += seconds;
    if (e->full == FULL_TOKENS) t->full_tokens_s += seconds;
    if (e->full == FULL_BLOCKS) t->full_blocks_s += seconds;
}

/* The engine looks at what has come since its last step began. */
static void mark_seen(nps_serving *s, engine *e) {
    for (int64_t i = 0; i < e->fresh.count; i++) {
        request *r = &s->requests[e->fresh.slots[i]];
        if (r->seen < 0) r->seen = s->totals.now;
    }
    e->fresh.count = 0;
}

/* When a step that begins now has passed all stages: each waits for the batch before, and for the stage before. */
static double step_end(nps_serving *s, const engine *e, double seconds) {
    if (s->c.stages == 1) return s->totals.now + seconds;
    double *free_at = s->stage_free + (e - s->engines) / s->c.stages * s->c.stages, time = s->totals.now;
    for (int64_t i = 0; i < s->c.stages; i++) {
        if (free_at[i] > time) time = free_at[i];
        free_at[i] = time += seconds * s->c.stage_share;
    }
    return time;
}

static void start_step(nps_serving *s, engine *e) {
    if (e->busy || !(e->running.count || e->waiting_count)) return;
    mark_seen(s, e);
    /* A request that had to give way to itself may be admitted anew. */
    if (!schedule(s, e) && !schedule(s, e)) {
        if (e->sending) return; /* what is being handed over holds the blocks */
        s->failed = s->failed ? s->failed : NPS_SERVING_STUCK;
        return;
    }
    step_price p = price_step(s, e);
    double end = step_end(s, e, p.seconds);
    log_step(s, e, &p, end);
    count_step(s, e, &p, end);
    e->busy = 1;
    s->busy_total++;
    e->step_joules = p.joules;
    e->swapped_blocks = 0;
    e->step++;
    moment_push(s, end, STEP_ENDS, (int32_t)(e - s->engines));
}

/* ---- the run ---------------------------------------------------------------------------------------------------- */

/* Why the run has to stop before the next moment; DONE when it need not. */
static int pause(const nps_serving *s) {
    int64_t most = s->c.engines * s->c.max_sequences;
    if (s->record_room - s->record_count < most) return NPS_SERVING_SINK_FULL;
    if (s->steps && s->step_room - s->step_count < s->c.engines) return NPS_SERVING_SINK_FULL;
    if (s->shares && s->share_room - s->share_count < most) return NPS_SERVING_SINK_FULL;
    int64_t wanted = s->c.concurrency ? s->c.concurrency : 1;
    return !s->ended && s->queue_count < wanted ? NPS_SERVING_WANTS_REQUESTS : NPS_SERVING_DONE;
}

/* Requests that come now: by their time, or in a closed loop as many as it has places. */
static void arrivals(nps_serving *s) {
    const double now = s->totals.now;
    while (s->queue_count && !s->failed) {
        int comes = s->c.concurrency ? s->totals.live < s->c.concurrency : s->queue[s->queue_head].arrival <= now;
        if (!comes) return;
        arrive(s, s->c.concurrency ? now : s->queue[s->queue_head].arrival);
    }
}

int nps_serving_run(nps_serving *s) {
    int why = 0;
    if (!s || !s->records) return NPS_SERVING_BAD_ARGUMENT;
    while (!s->failed && !(why = pause(s))) {
        arrivals(s);
        if (!s->ended && !s->queue_count) continue;
        for (int64_t k = 0; k < s->c.engines && !s->failed; k++) start_step(s, &s->engines[k]);
        double coming = s->c.concurrency || !s->queue_count ? INFINITY : s->queue[s->queue_head].arrival;
        double ending = s->moment_count ? s->moments[0].time : INFINITY;
        double time = coming < ending ? coming : ending;
        if (s->failed) break;
        if (time == INFINITY) return s->totals.live ? NPS_SERVING_STUCK : NPS_SERVING_DONE;
        advance(s, time);
        while (s->moment_count && s->moments[0].time <= time && !s->failed) {
            moment m = moment_pop(s);
            if (m.kind == STEP_ENDS) step_ends(s, &s->engines[m.index]);
            else transfer_ends(s, m.index);
        }
    }
    return s->failed ? s->failed : why;
}

/* Entry points: checks, the workspace, and the front ends that feed the channels.
 *
 * With one front end per channel (front_window 0) the channels share nothing and run one after the other, which
 * keeps one channel's state in the cache. A shared front end hands requests over in trace order through a window
 * of pending ones, so a channel whose queue is full holds the others back; then events are merged by time. */
#include "csrc/sim/dram_state.h"

#include <stdbool.h>
#include <stddef.h>

enum { MAX_TICKS = 1 << 24, MAX_FRONT = 1 << 16 };

static bool within(int32_t value, int32_t low, int32_t high) { return value >= low && value <= high; }

static bool timings_valid(const nps_dram_config *c) {
    const int32_t any[] = {c->act_ticks, c->pre_ticks, c->col_ticks, c->rcd_rd, c->rcd_wr, c->rp,        c->rp_ab,
                           c->ras,       c->rc,        c->cl,        c->cwl,    c->bl,     c->ccd_s,     c->ccd_l,
                           c->ccd_r,     c->rrd_s,     c->rrd_l,     c->faw,    c->ppd,    c->rd_to_wr,  c->wr_to_rd_s,
                           c->rfc,       c->refi,      c->rfc_pb,    c->refi_pb, c->rrefd, c->wr_to_rd_l, c->rtp,
                           c->wr_to_pre};
    for (size_t i = 0; i < sizeof any / sizeof *any; i++)
        if (!within(any[i], 0, MAX_TICKS)) return false;
    /* Bursts of one pseudo-channel never overlap: ordered by these, whatever the rest says. */
    if (c->bl < 1 || c->ccd_s < c->bl || c->ccd_l < c->ccd_s || c->ccd_r < c->bl || c->rrd_l < c->rrd_s) return false;
    if (c->rd_to_wr < c->cl + c->bl - c->cwl || c->wr_to_rd_s < c->cwl + c->bl - c->cl) return false;
    if (c->wr_to_rd_l < c->wr_to_rd_s || c->rc < c->ras || c->act_ticks < 1 || c->col_ticks < 1) return false;
    /* Requests must find room between refreshes, or a run would never end. */
    if (c->refresh == NPS_REFRESH_ALL_BANK && c->refi <= c->rfc + c->rc + c->rp + c->rp_ab + c->faw) return false;
    if (c->refresh == NPS_REFRESH_PER_BANK && (c->refi_pb < 1 || c->refi_pb <= c->rrefd + c->rrd_l + c->pre_ticks))
        return false;
    if (c->refresh == NPS_REFRESH_PER_BANK &&
        (int64_t)c->refi_pb * c->sids * c->groups * c->banks <= (int64_t)c->rfc_pb + c->rc + c->rp + c->faw)
        return false;
    return true;
}

static bool config_valid(const nps_dram_config *c) {
    if (!within(c->channels, 1, NPS_MAX_CHANNELS) || !within(c->pcs, 1, MAX_PCS)) return false;
    if (!within(c->sids, 1, MAX_SIDS) || !within(c->groups, 1, MAX_GROUPS)) return false;
    if (!within(c->banks, 1, NPS_MAX_BANKS) || !within(c->edge, 1, 2)) return false;
    if (c->pcs * c->sids * c->groups > MAX_GROUPS || c->pcs * c->sids * c->groups * c->banks > NPS_MAX_BANKS)
        return false;
    if (!within(c->window, 1, NPS_MAX_QUEUE) || !within(c->write_queue, 1, NPS_MAX_QUEUE)) return false;
    if (!within(c->write_high, 1, c->write_queue) || !within(c->write_low, 0, c->write_high)) return false;
    if (!within(c->hit_cap, 0, INT32_MAX) || !within(c->refresh, 0, 2)) return false;
    if (!within(c->front_window, 0, MAX_FRONT) || !within(c->front_issue, 0, MAX_FRONT)) return false;
    if (!within(c->max_outstanding, 0, MAX_FRONT)) return false;
    if (!within(c->backlog, 0, NPS_MAX_QUEUE) || !within(c->unified, 0, 1)) return false;
    if (!within(c->return_ticks, 0, MAX_TICKS)) return false;
    if (c->front_window && !c->front_issue) return false;
    return timings_valid(c);
}

/* ---- workspace: channels, then trace links or the shared front end's buffers -------------------------------- */

typedef struct {
    channel *channels;
    int32_t *links;   /* next request of the same channel, or the shared window */
    int64_t *in_ring; /* completion ticks of reads in flight */
} layout;

static int64_t links_needed(const nps_dram_config *c, int64_t n) { return c->front_window ? c->front_window : n; }

int64_t nps_dram_workspace(const nps_dram_config *config, int64_t n) {
    int64_t bytes, links;
    if (!config || n < 0 || n >= INT32_MAX || !config_valid(config)) return -1;
    if (__builtin_mul_overflow((int64_t)config->channels, (int64_t)sizeof(channel), &bytes)) return -1;
    if (__builtin_mul_overflow(links_needed(config, n), (int64_t)sizeof(int32_t), &links)) return -1;
    if (__builtin_add_overflow(bytes, links, &bytes)) return -1;
    if (__builtin_add_overflow(bytes, (int64_t)config->max_outstanding * 8 + 64, &bytes)) return -1;
    return bytes;
}

static layout lay_out(const nps_dram_config *c, void *workspace) {
    layout w;
    w.in_ring = workspace;
    w.channels = (channel *)(void *)(w.in_ring + c->max_outstanding);
    w.links = (int32_t *)(void *)(w.channels + c->channels);
    return w;
}

/* ---- one front end per channel ------------------------------------------------------------------------------ */

static void link_by_channel(const run_state *run, const layout *w, int64_t n) {
    int32_t field[NPS_FIELDS];
    for (int64_t i = n - 1; i >= 0; i--) {
        nps_decode_one(run->map, run->addresses[i], field);
        channel *c = &w->channels[field[NPS_CHANNEL]];
        w->links[i] = c->next_request;
        c->next_request = (int32_t)i;
    }
}

static int is_write(const run_state *run, int32_t i) { return run->writes && run->writes[i]; }

static bool has_room(const channel *c, int write) {
    const nps_dram_config *cfg = c->cfg;
    if (cfg->unified && write) return c->held[1] < cfg->write_queue;
    if (write) return c->waiting[1] < cfg->write_queue;
    int32_t visible = c->waiting[0] + (cfg->unified ? c->waiting[1] : 0);
    return c->held[0] < cfg->backlog || (!c->held[0] && visible < cfg->window);
}

static void insert(channel *c, const run_state *run, int32_t i, int write) {
    int32_t field[NPS_FIELDS];
    nps_decode_one(run->map, run->addresses[i], field);
    nps_channel_insert(c, i, i, write, field);
}

/* Moves what is held back into the window while there is room. In a unified window writes come in batches:
 * when their queue is full enough, or when nothing else is left to do. */
static void refill(channel *c, const run_state *run) {
    const nps_dram_config *cfg = c->cfg;
    for (;;) {
        int32_t visible = c->waiting[0] + (cfg->unified ? c->waiting[1] : 0);
        if (cfg->unified && !c->draining && (c->held[1] >= cfg->write_high || (!c->held[0] && !visible)))
            c->draining = c->held[1];
        int write = c->draining > 0;
        if (visible >= cfg->window || !c->held[write]) return;
        insert(c, run, c->held_index[write][c->held_head[write]], write);
        c->held_head[write] = (c->held_head[write] + 1) % NPS_MAX_QUEUE;
        c->held[write]--;
        c->draining -= write;
    }
}

static void accept(channel *c, const run_state *run, int32_t i, int write, int64_t now) {
    if (run->start) run->start[i] = now;
    if (!c->cfg->unified && (write || !c->cfg->backlog)) {
        insert(c, run, i, write);
        return;
    }
    c->held_index[write][(c->held_head[write] + c->held[write]) % NPS_MAX_QUEUE] = i;
    c->held[write]++;
    refill(c, run);
}

/* Admits what has arrived, in order; returns when the next one arrives, FOREVER if it waits for room. */
static int64_t admit(channel *c, run_state *run, const int32_t *links) {
    while (c->next_request != NONE) {
        int32_t i = c->next_request;
        int write = is_write(run, i);
        if (run->arrivals && run->arrivals[i] > c->now) return run->arrivals[i];
        if (!has_room(c, write)) return FOREVER;
        accept(c, run, i, write, c->now);
        c->next_request = links[i];
    }
    return FOREVER;
}

static void run_channel(channel *c, run_state *run, const int32_t *links) {
    int holds = c->cfg->unified || c->cfg->backlog;
    while (c->next_request != NONE || c->waiting[0] || c->waiting[1]) {
        int64_t arrival = admit(c, run, links);
        nps_channel_plan(c);
        if (arrival < c->plan.tick && arrival != FOREVER)
            c->now = arrival;
        else if (nps_channel_issue(c, run) && holds)
            refill(c, run);
    }
}

/* ---- a shared front end --------------------------------------------------------------------------------------- */

typedef struct {
    int32_t *pending; /* trace indices, oldest first */
    int32_t count, next;
    int64_t *ring; /* completion ticks of reads in flight; commands issue in time order, so they leave in order */
    int32_t ring_head, in_flight;
    int64_t tick; /* when to try next, FOREVER while it waits for a queue entry */
} front;

static void retire(front *f, const nps_dram_config *c, int64_t now) {
    while (f->in_flight && f->ring[f->ring_head] <= now) {
        f->ring_head = (f->ring_head + 1) % c->max_outstanding;
        f->in_flight--;
    }
}

/* Completion is known only when the read issues, so the ring counts queued reads apart. */
static bool may_send(const front *f, const nps_dram_config *c, int32_t queued) {
    return !c->max_outstanding || f->in_flight + queued < c->max_outstanding;
}

static int64_t next_try(const front *f, const run_state *run, int64_t n, int64_t now, int32_t handed) {
    const nps_dram_config *c = run->cfg;
    if (handed) return now + c->edge; /* progress: try again next clock */
    int64_t tick = f->in_flight && c->max_outstanding ? f->ring[f->ring_head] : FOREVER;
    if (run->arrivals && f->count < c->front_window && f->next < n) tick = min64(tick, run->arrivals[f->next]);
    return tick <= now ? now + c->edge : tick;
}

/* One clock of the front end: fills its window, hands over up to front_issue requests. */
static void front_clock(front *f, run_state *run, const layout *w, int64_t n, int64_t now, int32_t *queued) {
    const nps_dram_config *c = run->cfg;
    int32_t handed = 0, kept = 0, field[NPS_FIELDS];
    if (c->max_outstanding) retire(f, c, now);
    while (f->count < c->front_window && f->next < n && (!run->arrivals || run->arrivals[f->next] <= now))
        f->pending[f->count++] = f->next++;
    for (int32_t p = 0; p < f->count; p++) {
        int32_t i = f->pending[p];
        int write = is_write(run, i);
        nps_decode_one(run->map, run->addresses[i], field);
        channel *target = &w->channels[field[NPS_CHANNEL]];
        if (handed < c->front_issue && has_room(target, write) && (write || may_send(f, c, *queued))) {
            target->now = max64(target->now, now);
            accept(target, run, i, write, now);
            target->plan.kind = NPS_REFPB + 1; /* stale: plan again */
            *queued += !write;
            handed++;
        } else {
            f->pending[kept++] = i;
        }
    }
    f->count = kept;
    f->tick = f->count || f->next < n ? next_try(f, run, n, now, handed) : FOREVER;
}

static void note_read(front *f, const nps_dram_config *c, int64_t done, int32_t *queued) {
    (*queued)--;
    if (!c->max_outstanding) return;
    f->ring[(f->ring_head + f->in_flight) % c->max_outstanding] = done;
    f->in_flight++;
    f->tick = min64(f->tick, done);
}

static void run_shared(run_state *run, const layout *w, int64_t n) {
    const nps_dram_config *cfg = run->cfg;
    front f = {.pending = w->links, .ring = w->in_ring};
    int32_t queued = 0;
    int64_t left = n;
    for (int32_t i = 0; i < cfg->channels; i++) w->channels[i].plan.kind = NPS_REFPB + 1;
    while (left) {
        int64_t tick = f.tick;
        channel *first = NULL;
        for (int32_t i = 0; i < cfg->channels; i++) {
            channel *c = &w->channels[i];
            if (c->plan.kind > NPS_REFPB) nps_channel_plan(c);
            if (c->plan.tick < tick) tick = c->plan.tick, first = c;
        }
        if (!first) {
            front_clock(&f, run, w, n, f.tick, &queued);
            continue;
        }
        int kind = first->plan.kind;
        if (nps_channel_issue(first, run)) {
            left--;
            refill(first, run);
            if (kind == NPS_RD) note_read(&f, cfg, tick + cfg->cl + cfg->bl + cfg->return_ticks, &queued);
            if (f.count || f.next < n) f.tick = min64(f.tick, tick + cfg->edge); /* a queue entry is free */
        }
        first->plan.kind = NPS_REFPB + 1;
    }
}

/* ---- entry ---------------------------------------------------------------------------------------------------- */

static int check_trace(const run_state *run, int64_t n) {
    int64_t last = 0;
    for (int64_t i = 0; i < n; i++) {
        if (run->addresses[i] < 0 || run->addresses[i] >= run->map->limit) return NPS_EADDRESS;
        if (!run->arrivals) continue;
        if (run->arrivals[i] < last || run->arrivals[i] > INT64_MAX / 4) return NPS_EARRIVAL;
        last = run->arrivals[i];
    }
    return NPS_OK;
}

/* The map may not name a bank or a channel the configuration lacks. */
static bool map_fits(const nps_dram_config *c, const nps_dram_map *m) {
    const int32_t sizes[NPS_ROW] = {c->channels, c->pcs, c->sids, c->groups, c->banks};
    int32_t highest[NPS_FIELDS] = {0};
    for (int32_t i = 0; i < m->segments; i++)
        highest[m->field[i]] |= (int32_t)((INT64_C(1) << m->width[i]) - 1) << m->position[i];
    if (m->third_bit >= 0) highest[NPS_SID] = 2;
    for (int32_t f = 0; f < NPS_ROW; f++)
        if (highest[f] >= sizes[f]) return false;
    return true;
}

int nps_dram_valid(const nps_dram_config *config, const nps_dram_map *map) {
    return config_valid(config) && nps_map_valid(map) && map_fits(config, map);
}

int nps_dram_run(const nps_dram_config *config, const nps_dram_map *map, int64_t n, const void *addresses,
                 const void *writes, const void *arrivals, void *start, void *done, void *log, int64_t log_rows,
                 void *workspace, int64_t workspace_bytes, nps_dram_result *result) {
    if (!config || !map || !result || !workspace || n < 0 || (n && !addresses)) return NPS_EINVAL;
    if (log_rows < 0 || (log_rows && !log)) return NPS_EINVAL;
    if (n >= INT32_MAX) return NPS_EOVERFLOW;
    if (!nps_dram_valid(config, map)) return NPS_EINVAL;
    int64_t needed = nps_dram_workspace(config, n);
    if (needed < 0) return NPS_EOVERFLOW;
    if (workspace_bytes < needed) return NPS_ESPACE;
    *result = (nps_dram_result){0};
    run_state run = {config, map, addresses, arrivals, writes, start, done, log, log_rows, result};
    int status = check_trace(&run, n);
    if (status != NPS_OK) return status;
    layout w = lay_out(config, workspace);
    for (int32_t i = 0; i < config->channels; i++) nps_channel_init(&w.channels[i], config, i);
    if (config->front_window) {
        run_shared(&run, &w, n);
        return NPS_OK;
    }
    link_by_channel(&run, &w, n);
    for (int32_t i = 0; i < config->channels; i++) run_channel(&w.channels[i], &run, w.links);
    return NPS_OK;
}

/* One channel: queues per bank, FR-FCFS choice of the next command, and what a command does to the timing.
 *
 * Every bank keeps its waiting requests in four short lists: reads and writes, to the open row and to others.
 * All requests of a list have the same earliest tick, so only heads are compared, and bitmaps skip banks that
 * have nothing to offer. A list is walked only when its bank opens or closes a row. */
#include "csrc/sim/dram_state.h"

#include <string.h>

NPS_INLINE int bit(const uint64_t *set, int b) { return (int)(set[b >> 6] >> (b & 63) & 1); }
NPS_INLINE void add(uint64_t *set, int b) { set[b >> 6] |= UINT64_C(1) << (b & 63); }
NPS_INLINE void drop(uint64_t *set, int b) { set[b >> 6] &= ~(UINT64_C(1) << (b & 63)); }

/* Row and column commands other than precharges start on whole clocks. edge is 1 or 2. */
NPS_INLINE int64_t whole(const channel *c, int64_t tick) { return tick + (tick & (c->cfg->edge - 1)); }

NPS_INLINE void push(channel *c, fifo *list, int16_t n) {
    c->nodes[n].next = NONE;
    if (list->head == NONE)
        list->head = n;
    else
        c->nodes[list->tail].next = n;
    list->tail = n;
}

NPS_INLINE void offer(choice *best, int64_t tick, int32_t age, int32_t kind, int32_t b, int32_t write) {
    if (tick < best->tick || (tick == best->tick && age < best->age)) *best = (choice){tick, age, kind, b, write};
}

static const choice NOTHING = {FOREVER, INT32_MAX, NONE, NONE, 0};

/* A command is offered when a bank comes to need it and the best of each kind is kept, so that the banks are looked
 * through only after one was issued. Ticks are those of the constraints; `plan` adds what is past. */
NPS_INLINE int64_t column_tick(const channel *c, const bank *k, int write) {
    int64_t tick = max64(max64(k->col_ready[write], c->rank_col[write][k->rank]), c->group_col[write][k->group]);
    return max64(tick, whole(c, max64(c->now, c->bus[0])));
}

NPS_INLINE void offer_column(channel *c, int32_t b, int write) {
    const bank *k = &c->banks[b];
    offer(&c->column, column_tick(c, k, write), c->nodes[k->hit[write].head].index, NPS_RD + write, b, write);
}

NPS_INLINE void all_stale(channel *c) { c->stale_column = c->stale_activate = c->stale_precharge = 1; }

NPS_INLINE int64_t activate_tick(const channel *c, int32_t b, int64_t shared) {
    return whole(c, max64(shared, max64(c->act_ready[b], c->group_act[c->group_of[b]])));
}

/* What binds all activates of a pseudo-channel: tRRD_S, tRREFD and tFAW. */
NPS_INLINE int64_t activates_from(const channel *c, const pseudo *pc) {
    return max64(max64(pc->act_ready, pc->faw[pc->faw_next] + c->cfg->faw), c->now);
}

NPS_INLINE void offer_activate(channel *c, int32_t b, int write) {
    int64_t tick = activate_tick(c, b, activates_from(c, &c->pc[c->banks[b].pc]));
    offer(&c->activate, tick, (int32_t)c->miss_age[write][b], NPS_ACT, b, write);
}

NPS_INLINE void offer_precharge(channel *c, int32_t b, int write) {
    offer(&c->precharge, max64(c->now, c->pre_ready[b]), (int32_t)c->miss_age[write][b], NPS_PRE, b, write);
}

NPS_INLINE int served(const channel *c, int write) { return c->cfg->unified || c->write_mode == write; }

/* Bank b has a first request for another row, or no more for its own. */
NPS_INLINE void offer_row(channel *c, int32_t b, int write) {
    const bank *k = &c->banks[b];
    if (bit(c->blocked, b)) return;
    if (k->open_row == NONE)
        offer_activate(c, b, write);
    else if (k->hit[write].head == NONE && !(c->cfg->unified && k->hit[!write].head != NONE))
        offer_precharge(c, b, write);
}

void nps_channel_init(channel *c, const nps_dram_config *cfg, int32_t index) {
    memset(c, 0, sizeof *c);
    c->cfg = cfg;
    c->row_bus = cfg->dual_bus ? 1 : 0;
    int32_t per_group = cfg->banks, per_sid = per_group * cfg->groups, per_pc = per_sid * cfg->sids;
    c->bank_count = per_pc * cfg->pcs;
    c->first_bank = index * c->bank_count;
    c->words = (c->bank_count + 63) / 64;
    for (int32_t b = 0; b < c->bank_count; b++) {
        bank *k = &c->banks[b];
        k->open_row = NONE;
        k->group = (int16_t)(b / per_group);
        c->group_of[b] = (uint8_t)k->group;
        k->rank = (int16_t)(b / per_sid);
        k->pc = (int16_t)(b / per_pc);
        for (int rw = 0; rw < 2; rw++) k->hit[rw] = k->miss[rw] = (fifo){NONE, NONE};
        add(c->pc[k->pc].mask, b);
    }
    for (int32_t p = 0; p < cfg->pcs; p++) {
        for (int i = 0; i < 4; i++) c->pc[p].faw[i] = -(int64_t)cfg->faw;
        c->pc[p].refresh_next = cfg->refresh == NPS_REFRESH_NONE ? FOREVER
                                : cfg->refresh == NPS_REFRESH_PER_BANK ? cfg->refi_pb : cfg->refi;
    }
    int32_t nodes = cfg->window + cfg->write_queue;
    for (int32_t i = 0; i < nodes; i++) c->nodes[i].next = (int16_t)(i + 1 < nodes ? i + 1 : NONE);
    c->next_request = NONE;
    all_stale(c);
}

void nps_channel_insert(channel *c, int32_t index, int32_t tag, int write, const int32_t field[NPS_FIELDS]) {
    const nps_dram_config *cfg = c->cfg;
    int32_t b = ((field[NPS_PC] * cfg->sids + field[NPS_SID]) * cfg->groups + field[NPS_GROUP]) * cfg->banks +
                field[NPS_BANK];
    int16_t n = c->free_node;
    node *request = &c->nodes[n];
    c->free_node = request->next;
    request->row = field[NPS_ROW];
    request->index = index;
    request->tag = tag;
    request->bank = (int16_t)b;
    bank *k = &c->banks[b];
    /* A row that has had its share of hits is not extended past requests that wait for another row. */
    int spent = cfg->hit_cap && k->hits >= cfg->hit_cap && k->miss[write].head != NONE;
    if (k->open_row == request->row && !spent) {
        int first = k->hit[write].head == NONE;
        push(c, &k->hit[write], n);
        add(c->has_hit[write], b);
        if (c->precharge.bank == b) c->stale_precharge = 1;
        if (first && served(c, write) && !bit(c->blocked, b)) offer_column(c, b, write);
    } else {
        int first = k->miss[write].head == NONE;
        push(c, &k->miss[write], n);
        add(c->has_miss[write], b);
        if (first) c->miss_age[write][b] = (uint32_t)index;
        if (first && served(c, write)) offer_row(c, b, write);
    }
    c->waiting[write]++;
}

/* Merges hits back into the other requests, by age, when their row closes. */
static void close_row(channel *c, int32_t b) {
    bank *k = &c->banks[b];
    for (int rw = 0; rw < 2; rw++) {
        int16_t x = k->hit[rw].head, y = k->miss[rw].head;
        if (x != NONE) {
            fifo merged = {NONE, NONE};
            while (x != NONE || y != NONE) {
                int first = y == NONE || (x != NONE && c->nodes[x].index < c->nodes[y].index);
                int16_t n = first ? x : y;
                if (first)
                    x = c->nodes[x].next;
                else
                    y = c->nodes[y].next;
                push(c, &merged, n);
            }
            k->hit[rw] = (fifo){NONE, NONE};
            k->miss[rw] = merged;
            c->miss_age[rw][b] = (uint32_t)c->nodes[merged.head].index;
            drop(c->has_hit[rw], b);
            add(c->has_miss[rw], b);
        }
        drop(c->capped[rw], b);
    }
    k->open_row = NONE;
    drop(c->open, b);
    if (c->column.bank == b) c->stale_column = 1;
}

/* Splits the requests that wait for `row` off when it opens. */
static void open_row(channel *c, int32_t b, int32_t row) {
    bank *k = &c->banks[b];
    for (int rw = 0; rw < 2; rw++) {
        fifo rest = {NONE, NONE};
        for (int16_t n = k->miss[rw].head, next; n != NONE; n = next) {
            next = c->nodes[n].next;
            push(c, c->nodes[n].row == row ? &k->hit[rw] : &rest, n);
        }
        k->miss[rw] = rest;
        if (rest.head == NONE)
            drop(c->has_miss[rw], b);
        else
            c->miss_age[rw][b] = (uint32_t)c->nodes[rest.head].index;
        if (k->hit[rw].head != NONE) add(c->has_hit[rw], b);
    }
    k->open_row = row;
    k->hits = 0;
    k->fresh = 1;
    add(c->open, b);
}

/* ---- choosing ---------------------------------------------------------------------------------------------- */

/* Tick and age in one number to compare without branches; a tick is less than 2^31 away. */
NPS_INLINE uint64_t rank_of(const channel *c, int64_t tick, uint32_t age) {
    return (uint64_t)(tick - c->now) << 32 | age;
}

NPS_INLINE void take_best(choice *best, const channel *c, uint64_t rank, int32_t kind, int32_t b, int write) {
    if (b != NONE) offer(best, c->now + (int64_t)(rank >> 32), (int32_t)(uint32_t)rank, kind, b, write);
}

static void choose_column(channel *c, int mode) {
    uint64_t best = UINT64_MAX;
    int32_t chosen = NONE;
    for (int32_t w = 0; w < c->words; w++) {
        uint64_t set = c->has_hit[mode][w] & ~c->capped[mode][w] & ~c->blocked[w];
        for (; set; set &= set - 1) {
            int32_t b = w * 64 + __builtin_ctzll(set);
            const bank *k = &c->banks[b];
            uint64_t rank = rank_of(c, column_tick(c, k, mode), (uint32_t)c->nodes[k->hit[mode].head].index);
            chosen = rank < best ? b : chosen;
            best = rank < best ? rank : best;
        }
    }
    take_best(&c->column, c, best, NPS_RD + mode, chosen, mode);
}

static void choose_activate(channel *c, int mode) {
    uint64_t best = UINT64_MAX;
    int32_t chosen = NONE;
    for (int32_t p = 0; p < c->cfg->pcs; p++) {
        const pseudo *pc = &c->pc[p];
        int64_t shared = activates_from(c, pc);
        if (rank_of(c, shared, 0) > best) continue;
        for (int32_t w = 0; w < c->words; w++) {
            uint64_t set = c->has_miss[mode][w] & ~c->open[w] & ~c->blocked[w] & pc->mask[w];
            for (; set; set &= set - 1) {
                int32_t b = w * 64 + __builtin_ctzll(set);
                uint64_t rank = rank_of(c, activate_tick(c, b, shared), c->miss_age[mode][b]);
                chosen = rank < best ? b : chosen;
                best = rank < best ? rank : best;
            }
        }
    }
    take_best(&c->activate, c, best, NPS_ACT, chosen, mode);
}

static void choose_precharge(channel *c, int mode) {
    uint64_t best = UINT64_MAX;
    int32_t chosen = NONE;
    for (int32_t w = 0; w < c->words; w++) {
        uint64_t used = c->has_hit[mode][w] | (c->cfg->unified ? c->has_hit[!mode][w] : 0);
        uint64_t set = c->has_miss[mode][w] & c->open[w] & (~used | c->capped[mode][w]) & ~c->blocked[w];
        for (; set; set &= set - 1) {
            int32_t b = w * 64 + __builtin_ctzll(set);
            uint64_t rank = rank_of(c, max64(c->now, c->pre_ready[b]), c->miss_age[mode][b]);
            chosen = rank < best ? b : chosen;
            best = rank < best ? rank : best;
        }
    }
    take_best(&c->precharge, c, best, NPS_PRE, chosen, mode);
}

static void choose_stale(channel *c) {
    if (c->stale_column) c->column = NOTHING;
    if (c->stale_activate) c->activate = NOTHING;
    if (c->stale_precharge) c->precharge = NOTHING;
    for (int mode = 0; mode < 2; mode++) {
        if (!c->waiting[mode] || !served(c, mode)) continue;
        if (c->stale_column) choose_column(c, mode);
        if (c->stale_activate) choose_activate(c, mode);
        if (c->stale_precharge) choose_precharge(c, mode);
    }
    c->stale_column = c->stale_activate = c->stale_precharge = 0;
}

/* A refresh that is due comes before requests: age -1. Its banks take no other command (blocked). */
static void choose_refresh(const channel *c, int32_t p, int64_t floor, choice *best) {
    const pseudo *pc = &c->pc[p];
    int per_bank = c->cfg->refresh == NPS_REFRESH_PER_BANK;
    int32_t per_pc = c->bank_count / c->cfg->pcs, first = p * per_pc + (per_bank ? pc->refresh_bank : 0);
    int64_t precharge = max64(floor, pc->pre_ready), refresh = floor;
    int any_open = 0;
    for (int32_t b = first; b < first + (per_bank ? 1 : per_pc); b++) {
        const bank *k = &c->banks[b];
        any_open |= k->open_row != NONE;
        if (k->open_row != NONE) precharge = max64(precharge, c->pre_ready[b]);
        refresh = max64(refresh, c->act_ready[b]);
    }
    if (any_open)
        offer(best, precharge, -1, per_bank ? NPS_PRE : NPS_PREAB, first, 0);
    else if (per_bank)
        offer(best, whole(c, max64(max64(refresh, pc->act_ready), c->group_act[c->banks[first].group])), -1, NPS_REFPB,
              first, 0);
    else
        offer(best, whole(c, refresh), -1, NPS_REFAB, first, 0);
}

static void update_refresh(channel *c) {
    for (int32_t p = 0; p < c->cfg->pcs; p++) {
        pseudo *pc = &c->pc[p];
        if (pc->refresh_pending || pc->refresh_next > c->now) continue;
        pc->refresh_pending = 1;
        all_stale(c);
        if (c->cfg->refresh == NPS_REFRESH_PER_BANK)
            add(c->blocked, p * (c->bank_count / c->cfg->pcs) + pc->refresh_bank);
        else
            for (int32_t w = 0; w < c->words; w++) c->blocked[w] |= pc->mask[w];
    }
}

/* Writes are posted: they wait until enough are there to pay for turning the bus around, or reads run out. */
static void update_mode(channel *c) {
    int32_t reads = c->waiting[0], writes = c->waiting[1], before = c->write_mode;
    if (!c->write_mode)
        c->write_mode = writes >= c->cfg->write_high || (reads == 0 && writes > 0);
    else if (writes == 0 || (writes < c->cfg->write_low && reads > 0))
        c->write_mode = 0;
    if (c->write_mode != before) all_stale(c);
}

void nps_channel_plan(channel *c) {
    update_mode(c);
    update_refresh(c);
    int64_t floor = max64(c->now, c->bus[c->row_bus]), due = FOREVER;
    choice best = NOTHING;
    for (int32_t p = 0; p < c->cfg->pcs; p++) {
        if (c->pc[p].refresh_pending)
            choose_refresh(c, p, floor, &best);
        else
            due = min64(due, c->pc[p].refresh_next);
    }
    choose_stale(c);
    const choice *one = &c->column;
    int64_t column_floor = whole(c, max64(c->now, c->bus[0]));
    if (one->bank != NONE) offer(&best, max64(column_floor, one->tick), one->age, one->kind, one->bank, one->write);
    one = &c->activate;
    if (one->bank != NONE) offer(&best, whole(c, max64(floor, one->tick)), one->age, one->kind, one->bank, one->write);
    one = &c->precharge;
    if (one->bank != NONE)
        offer(&best, max64(max64(floor, one->tick), c->pc[c->banks[one->bank].pc].pre_ready), one->age, one->kind,
              one->bank, one->write);
    if (due < best.tick) best = (choice){due, 0, NONE, NONE, 0}; /* wake up to make the refresh pending */
    c->plan = best;
}

/* ---- issuing ----------------------------------------------------------------------------------------------- */

static void after_column(channel *c, int64_t t, int mode, const bank *k) {
    const nps_dram_config *cfg = c->cfg;
    int64_t turn = t + (mode ? cfg->wr_to_rd_s : cfg->rd_to_wr);
    int32_t first = k->pc * cfg->sids;
    for (int32_t r = first; r < first + cfg->sids; r++) {
        int64_t again = t + (r == k->rank ? cfg->ccd_s : cfg->ccd_r);
        c->rank_col[mode][r] = max64(c->rank_col[mode][r], again);
        c->rank_col[!mode][r] = max64(c->rank_col[!mode][r], turn);
    }
    c->group_col[mode][k->group] = t + cfg->ccd_l;
    if (mode) c->group_col[0][k->group] = max64(c->group_col[0][k->group], t + cfg->wr_to_rd_l);
}

static void issue_column(channel *c, run_state *run, int mode) {
    const nps_dram_config *cfg = c->cfg;
    int32_t b = c->plan.bank;
    bank *k = &c->banks[b];
    int64_t t = c->plan.tick;
    int16_t n = k->hit[mode].head;
    node *request = &c->nodes[n];
    k->hit[mode].head = request->next;
    if (request->next == NONE) {
        k->hit[mode].tail = NONE;
        drop(c->has_hit[mode], b);
    }
    c->bus[0] = t + cfg->col_ticks;
    c->stale_column = 1;
    after_column(c, t, mode, k);
    c->pre_ready[b] = max64(c->pre_ready[b], t + (mode ? cfg->wr_to_pre : cfg->rtp));
    int64_t done = t + (mode ? cfg->cwl : cfg->cl) + cfg->bl;
    nps_dram_result *result = run->result;
    if (run->done) run->done[request->index] = done;
    c->issued_tag = request->tag;
    c->issued_done = done;
    result->end_tick = max64(result->end_tick, done);
    *(mode ? &result->writes : &result->reads) += 1;
    *(!k->fresh ? &result->hits : k->conflict ? &result->conflicts : &result->closed) += 1;
    k->fresh = 0;
    k->hits++;
    int16_t hit = k->hit[mode].head, miss = k->miss[mode].head;
    if (cfg->hit_cap && k->hits >= cfg->hit_cap && hit != NONE && miss != NONE &&
        c->nodes[miss].index < c->nodes[hit].index) {
        add(c->capped[mode], b);
        offer_precharge(c, b, mode);
    }
    if (hit == NONE) {
        if (miss != NONE) offer_row(c, b, mode);
        if (cfg->unified && k->miss[!mode].head != NONE) offer_row(c, b, !mode);
    }
    request->next = c->free_node;
    c->free_node = n;
    c->waiting[mode]--;
}

static void issue_activate(channel *c) {
    const nps_dram_config *cfg = c->cfg;
    bank *k = &c->banks[c->plan.bank];
    pseudo *pc = &c->pc[k->pc];
    int64_t t = c->plan.tick;
    pc->faw[pc->faw_next] = t;
    pc->faw_next = (pc->faw_next + 1) & 3;
    pc->act_ready = max64(pc->act_ready, t + cfg->rrd_s);
    c->group_act[k->group] = t + cfg->rrd_l;
    k->col_ready[0] = t + cfg->rcd_rd;
    k->col_ready[1] = t + cfg->rcd_wr;
    c->pre_ready[c->plan.bank] = t + cfg->ras;
    c->act_ready[c->plan.bank] = t + cfg->rc;
    c->stale_activate = 1;
    open_row(c, c->plan.bank, c->nodes[k->miss[c->plan.write].head].row);
    for (int mode = 0; mode < 2; mode++)
        if (served(c, mode) && k->hit[mode].head != NONE) offer_column(c, c->plan.bank, mode);
}

static void issue_precharge(channel *c) {
    bank *k = &c->banks[c->plan.bank];
    k->conflict = !bit(c->blocked, c->plan.bank); /* one made for a refresh is not a conflict of requests */
    c->act_ready[c->plan.bank] = max64(c->act_ready[c->plan.bank], c->plan.tick + c->cfg->rp);
    c->pc[k->pc].pre_ready = c->plan.tick + c->cfg->ppd;
    close_row(c, c->plan.bank);
    c->stale_precharge = 1;
    for (int mode = 0; mode < 2; mode++)
        if (served(c, mode) && k->miss[mode].head != NONE) offer_row(c, c->plan.bank, mode);
}

static void issue_precharge_all(channel *c) {
    int32_t per_pc = c->bank_count / c->cfg->pcs;
    for (int32_t b = c->plan.bank; b < c->plan.bank + per_pc; b++) {
        bank *k = &c->banks[b];
        c->act_ready[b] = max64(c->act_ready[b], c->plan.tick + c->cfg->rp_ab);
        k->conflict = 0;
        if (k->open_row != NONE) close_row(c, b);
    }
    all_stale(c);
    c->pc[c->banks[c->plan.bank].pc].pre_ready = c->plan.tick + c->cfg->ppd;
}

static void issue_refresh(channel *c) {
    const nps_dram_config *cfg = c->cfg;
    int64_t t = c->plan.tick;
    pseudo *pc = &c->pc[c->banks[c->plan.bank].pc];
    int32_t per_pc = c->bank_count / cfg->pcs;
    if (cfg->refresh == NPS_REFRESH_PER_BANK) {
        c->act_ready[c->plan.bank] = t + cfg->rfc_pb;
        pc->act_ready = max64(pc->act_ready, t + cfg->rrefd);
        drop(c->blocked, c->plan.bank);
        pc->refresh_bank = (pc->refresh_bank + 1) % per_pc;
        pc->refresh_next += cfg->refi_pb;
    } else {
        for (int32_t b = c->plan.bank; b < c->plan.bank + per_pc; b++) c->act_ready[b] = t + cfg->rfc;
        for (int32_t w = 0; w < c->words; w++) c->blocked[w] &= ~pc->mask[w];
        pc->refresh_next += cfg->refi;
    }
    pc->refresh_pending = 0;
    all_stale(c);
}

static void write_log(const channel *c, run_state *run, int32_t row) {
    int64_t i = run->result->log_count++;
    if (i >= run->log_rows) return;
    int64_t *line = run->log + 4 * i;
    line[0] = c->plan.tick;
    line[1] = c->plan.kind;
    line[2] = c->first_bank + c->plan.bank;
    line[3] = row;
}

int nps_channel_issue(channel *c, run_state *run) {
    const nps_dram_config *cfg = c->cfg;
    nps_dram_result *result = run->result;
    int kind = c->plan.kind, column = kind == NPS_RD || kind == NPS_WR;
    c->now = c->plan.tick;
    if (kind == NONE) return 0;
    int32_t row = c->banks[c->plan.bank].open_row;
    if (!column) c->bus[c->row_bus] = c->now + (kind == NPS_ACT ? cfg->act_ticks : cfg->pre_ticks);
    switch (kind) {
    case NPS_RD:
    case NPS_WR:
        issue_column(c, run, kind == NPS_WR);
        break;
    case NPS_ACT:
        issue_activate(c);
        row = c->banks[c->plan.bank].open_row;
        result->activates++;
        break;
    case NPS_PRE:
        issue_precharge(c);
        result->precharges++;
        break;
    case NPS_PREAB:
        issue_precharge_all(c);
        result->precharges++;
        break;
    default:
        issue_refresh(c);
        result->refreshes++;
        break;
    }
    if (run->log) write_log(c, run, row);
    return column;
}

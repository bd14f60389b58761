/* GEMM mappings: each candidate is priced by a closed-form pipeline of load, compute and store.
 *
 * An output tile of tm × tn is made by one core, in steps of tk along the reduction; `split` cores may share
 * a tile's reduction and add their partial results. Tiles are dealt to cores in contiguous runs, columns
 * fastest (rows fastest when b is kept), so that a core can keep the rows of a over a run.
 */
#include "csrc/sim/tile.h"

#include <float.h>
#include <stddef.h>

#define ACCUMULATOR_BYTES 4.0

static inline double ceil_div(double x, double y) {
    double q = (double)(int64_t)(x / y);
    return q * y < x ? q + 1 : q;
}

static inline double max2(double x, double y) { return x > y ? x : y; }
static inline double min2(double x, double y) { return x < y ? x : y; }

static double systolic_cycles(const nps_tile_chip *c, double tm, double tn, double tk) {
    /* As npusim/cost/systolic.py; a format that does s MACs per cell and cycle streams s times faster. */
    double speed = c->macs / (c->rows * c->cols * c->arrays);
    double down = c->dataflow == NPS_DATAFLOW_OS ? tm : tk;
    double across = c->dataflow == NPS_DATAFLOW_IS ? tm : tn;
    double streamed = c->dataflow == NPS_DATAFLOW_OS ? tk : c->dataflow == NPS_DATAFLOW_WS ? tm : tn;
    double edges = (c->dataflow == NPS_DATAFLOW_OS ? 1 : 2) * c->rows + c->cols - 2;
    double folds = ceil_div(ceil_div(down, c->rows) * ceil_div(across, c->cols), c->arrays);
    streamed /= speed;
    if (!c->overlap) return folds * (streamed + edges);
    /* Loading the next fold's stationary operand (or draining the last one's results) takes `rows` cycles. */
    return folds * max2(streamed, c->rows) + edges;
}

double nps_tile_cycles(const nps_tile_chip *c, double tm, double tn, double tk) {
    if (c->engine == NPS_SYSTOLIC) return systolic_cycles(c, tm, tn, tk);
    if (c->engine == NPS_DOT) {
        double width = c->macs / c->lanes; /* MACs of one lane per cycle in this format */
        return ceil_div(tm * tn, c->lanes) * ceil_div(tk, width);
    }
    double instructions = ceil_div(tm, c->sm) * ceil_div(tn, c->sn) * ceil_div(tk, c->sk);
    return instructions * c->sm * c->sn * c->sk / c->macs;
}

/* Tiles of one size, split and residency: everything about a candidate that its steps along the reduction do not
 * change. */
typedef struct {
    double tm, tn, split;
    int32_t keep;
    double depth, waves, active;
    double a_core, b_core, out_core;                /* bytes of the busiest core */
    double port_s, shared_s, dram_s, dram_bytes;
    double wait, supply, last_store, filling, asked, merge_s;
    double others_s;                                /* the slowest resource beside the engine */
    double least_s;                                 /* no choice of tk beats it */
} panel;

/* Bytes a core holds under the candidate: buffered steps, the kept operand, the accumulators and the results on
 * their way out. */
static double held_bytes(const nps_tile_chip *c, const nps_tile_gemm *g, const panel *t, double tk) {
    double buffers = t->depth > tk || t->waves > 1 ? c->buffers : 1; /* one step only: nothing to buffer ahead of */
    double a = t->tm * (t->keep == NPS_KEEP_A ? t->depth : buffers * tk) * g->a_bytes;
    double b = t->tn * (t->keep == NPS_KEEP_B ? t->depth : buffers * tk) * g->b_bytes;
    return a + b + t->tm * t->tn * (ACCUMULATOR_BYTES + g->out_bytes);
}

/* What leaves DRAM. The operand that passes is streamed once per panel of the kept one, unless the shared
 * memory holds it; the other operand is fetched again for every tile, unless a core or the shared
 * memory keeps its panels. Cores that need the same data at the same time are served by one read.
 * `run`: tiles of one panel in a core's run. Returns the bytes of a; those of b and of the rest by pointer. */
static double dram_bytes(const nps_tile_chip *c, const nps_tile_gemm *g, const panel *t, double panels, double run,
                         double partial, double *b_dram, double *rest) {
    double a_once = g->groups * g->m * g->k * g->a_bytes, b_once = g->groups * g->k * g->n * g->b_bytes;
    double out_once = g->groups * g->m * g->n * g->out_bytes;
    double a_again, b_again;
    if (t->keep == NPS_KEEP_B) {
        b_again = 1;
        a_again = a_once <= c->shared_bytes ? 1 : panels;
    } else {
        double live = t->active * t->tm * t->depth * g->a_bytes;
        a_again = t->keep == NPS_KEEP_A || live <= c->shared_bytes ? 1 : run;
        b_again = b_once <= c->shared_bytes ? 1 : panels;
    }
    *rest = out_once * g->out_cold + max2(partial - c->shared_bytes, 0);
    *b_dram = b_once * g->b_cold * b_again;
    return a_once * g->a_cold * a_again;
}

static void lay_panel(const nps_tile_chip *c, const nps_tile_gemm *g, double rows, double cols, panel *t) {
    double tiles = g->groups * rows * cols * t->split, waves = t->waves = ceil_div(tiles, c->cores);
    double active = t->active = min2(tiles, c->cores), area = t->tm * t->tn;

    /* Runs of consecutive tiles on one core: how many different row (column) panels a run touches. */
    double inner = t->keep == NPS_KEEP_B ? rows : cols;
    double panels = min2(waves, ceil_div(waves, inner));
    double a_loads = t->keep == NPS_KEEP_A ? panels : waves, b_loads = t->keep == NPS_KEEP_B ? panels : waves;
    t->a_core = a_loads * t->tm * t->depth * g->a_bytes, t->b_core = b_loads * t->tn * t->depth * g->b_bytes;
    t->out_core = waves * t->tm * t->tn * (t->split > 1 ? ACCUMULATOR_BYTES : g->out_bytes);
    t->port_s = (t->a_core + t->b_core + t->out_core) / c->core_bytes_per_s;

    double partial = t->split > 1 ? 2 * t->split * g->groups * g->m * g->n * ACCUMULATOR_BYTES : 0, b_dram, rest;
    double a_dram = dram_bytes(c, g, t, panels, min2(waves, inner), partial, &b_dram, &rest);
    t->dram_bytes = a_dram + b_dram + rest;
    t->dram_s = t->dram_bytes / c->dram_bytes_per_s;
    t->shared_s = (active * (t->a_core + t->b_core + t->out_core) + partial / 2) / c->shared_bytes_per_s;

    t->wait = c->transfer_s + (g->a_cold + g->b_cold > 0 ? c->latency_s : 0);
    t->supply = min2(c->core_bytes_per_s, min2(c->shared_bytes_per_s, c->dram_bytes_per_s) / active);
    double out_rate = min2(c->core_bytes_per_s, c->shared_bytes_per_s);
    if (g->out_cold > 0) out_rate = min2(out_rate, c->dram_bytes_per_s / g->out_cold);
    t->last_store = c->transfer_s + area * (t->split > 1 ? ACCUMULATOR_BYTES : g->out_bytes) / out_rate;
    /* A core's loads follow one another, each at the slower of its way in and of its core's share of DRAM. */
    double flow = min2(c->core_bytes_per_s, c->shared_bytes_per_s / active);
    double share = c->dram_bytes_per_s * active;
    double a_fill = max2(t->a_core / flow, a_dram / share), b_fill = max2(t->b_core / flow, b_dram / share);
    t->filling = max2(a_fill + b_fill, t->dram_s);
    /* What is kept is not asked for again. */
    t->asked = t->keep == NPS_KEEP_A ? b_fill : t->keep == NPS_KEEP_B ? a_fill : t->filling;
    t->others_s = max2(max2(t->dram_s, t->port_s), max2(t->shared_s, g->vector_s));
    /* Split reductions wait for each other once. */
    t->merge_s = t->split > 1 ? c->transfer_s + t->split * t->tm * t->tn * ACCUMULATOR_BYTES / c->core_bytes_per_s : 0;
}

/* Bounds add the terms of the time in another order, so they round differently. */
#define ROUNDING (1 - 1e-9)

/* Cutting a tile into steps never makes the engine faster: `whole` are its cycles in one step. */
static double panel_least_s(const nps_tile_chip *c, const panel *t, double whole) {
    double compute = t->waves * whole / c->clock_hz;
    double staged = (t->waves - 1) * t->last_store + compute / t->waves;
    return (t->wait + max2(max2(compute, staged) + t->last_store, t->others_s) + t->merge_s) * ROUNDING;
}

/* Engine cycles of a tile in steps of tk, and of its last step. */
typedef struct {
    double steps, cycles, last;
} steps_of;

static steps_of cut_steps(const nps_tile_chip *c, const panel *t, double tk) {
    double steps = ceil_div(t->depth, tk), rest = t->depth - (steps - 1) * tk;
    double last = nps_tile_cycles(c, t->tm, t->tn, rest);
    double full = steps > 1 ? nps_tile_cycles(c, t->tm, t->tn, tk) : 0;
    return (steps_of){steps, (steps - 1) * full + last, last};
}

/* Seconds of the pipeline: the first step's operands arrive, then each step takes the slower of its load and its
 * compute, then the last results leave. */
static double run_steps(const nps_tile_chip *c, const nps_tile_gemm *g, const panel *t, double tk, const steps_of *s) {
    double compute_s = t->waves * s->cycles / c->clock_hz, last_step = s->last / c->clock_hz;
    double loads = t->waves * s->steps;
    double step_bytes = tk * (t->tm * g->a_bytes + t->tn * g->b_bytes);
    double first = t->wait + step_bytes / max2(t->supply, DBL_MIN);
    /* A buffer is asked for, filled and used before it is asked for again. */
    double rounds = (double)(int64_t)((loads - 1) / c->buffers);
    double turns = rounds * (t->wait + (t->asked + compute_s) / loads) + last_step;
    turns = max2(turns, t->filling * (loads - 1) / loads + last_step);
    /* The results of a tile leave before the next one's are staged. */
    double staged = (t->waves - 1) * (last_step + t->last_store) + compute_s / t->waves;
    double busy = max2(max2(compute_s, turns), staged);
    double time_s = max2(first + busy + t->last_store, t->wait + t->others_s + last_step);
    return t->split > 1 ? time_s + t->merge_s : time_s;
}

typedef struct {
    int64_t count_m, count_n, count_k, splits;
    const int64_t *tm, *tn, *tk, *split;
} menu;

typedef struct {
    double bound_s;        /* some candidate takes no longer */
    nps_tile_result *best; /* NULL: only the bound is wanted */
    int64_t tried;
} search;

static void keep_best(const nps_tile_chip *c, const panel *t, int64_t tk, const steps_of *s, double time_s, search *to) {
    if (time_s < to->bound_s) to->bound_s = time_s;
    nps_tile_result *r = to->best;
    if (!r || time_s >= r->time_s) return; /* ties: the first of the menu */
    r->time_s = time_s;
    r->compute_s = t->waves * s->cycles / c->clock_hz;
    r->port_s = t->port_s, r->shared_s = t->shared_s, r->dram_s = t->dram_s, r->dram_bytes = t->dram_bytes;
    r->waves = t->waves, r->steps = t->waves * s->steps;
    r->tm = (int64_t)t->tm, r->tn = (int64_t)t->tn, r->tk = tk, r->split = (int64_t)t->split, r->keep = t->keep;
}

/* All steps and residencies of one tile size and split. */
static void scan_tile(const nps_tile_chip *c, const nps_tile_gemm *g, const menu *list, int64_t stride, double tm, double tn,
                      double split, search *to) {
    double rows = ceil_div(g->m, tm), cols = ceil_div(g->n, tn), depth = ceil_div(g->k, split);
    double work = ceil_div(g->groups * rows * cols * split, c->cores) * tm * tn * depth;
    /* Not even a perfectly used engine would make these tiles in time. */
    if (work / (c->macs * c->clock_hz) * ROUNDING > to->bound_s) return;
    double whole = nps_tile_cycles(c, tm, tn, depth);
    panel panels[NPS_KEEP_B + 1];
    int32_t some = 0;
    for (int32_t keep = NPS_KEEP_NONE; keep <= NPS_KEEP_B; keep++) {
        panel *t = &panels[keep];
        t->least_s = DBL_MAX;
        if (g->only_keep && keep != g->only_keep - 1) continue;
        t->tm = tm, t->tn = tn, t->split = split, t->depth = depth, t->keep = keep;
        lay_panel(c, g, rows, cols, t);
        t->least_s = panel_least_s(c, t, whole);
        some |= t->least_s <= to->bound_s;
    }
    for (int64_t l = 0; some && l < list->count_k; l += stride) {
        if (l + 1 < list->count_k && (double)list->tk[l + 1] >= depth) continue; /* a shorter edge covers it too */
        double tk = min2((double)list->tk[l], depth);
        steps_of s = {0};
        for (int32_t keep = NPS_KEEP_NONE; keep <= NPS_KEEP_B; keep++) {
            const panel *t = &panels[keep];
            if (t->least_s > to->bound_s) continue;
            to->tried++;
            if (held_bytes(c, g, t, tk) > c->core_bytes) continue;
            if (s.steps == 0) s = cut_steps(c, t, tk);
            keep_best(c, t, (int64_t)tk, &s, run_steps(c, g, t, tk, &s), to);
        }
    }
}

/* Tries the candidates whose edges stand at multiples of `stride` in the menu, but for those that cannot reach the
 * bound. */
static void scan(const nps_tile_chip *c, const nps_tile_gemm *g, const menu *list, int64_t stride, search *to) {
    for (int64_t i = 0; i < list->count_m; i += stride)
        for (int64_t j = 0; j < list->count_n; j += stride)
            for (int64_t s = 0; s < list->splits; s++)
                scan_tile(c, g, list, stride, (double)list->tm[i], (double)list->tn[j], (double)list->split[s], to);
}

int nps_tile_search(const nps_tile_chip *c, const nps_tile_gemm *g, int64_t count_m, const void *tms, int64_t count_n,
                    const void *tns, int64_t count_k, const void *tks, int64_t splits, const void *split_list,
                    nps_tile_result *best) {
    const menu list = {count_m, count_n, count_k, splits, tms, tns, tks, split_list};
    search to = {DBL_MAX, NULL, 0};
    /* A coarse look first: its best time rules most of the menu out. */
    if (count_m * count_n * count_k > 1000) scan(c, g, &list, 3, &to);
    best->time_s = DBL_MAX;
    to.best = best;
    scan(c, g, &list, 1, &to);
    best->candidates = to.tried;
    return best->time_s < DBL_MAX ? 0 : -1;
}

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

typedef struct {
    double tm, tn, tk, split;
    int32_t keep;
} candidate;

/* Bytes a core holds under the candidate: buffered steps, the kept operand, the accumulators and the results on
 * their way out. */
static double held_bytes(const nps_tile_chip *c, const nps_tile_gemm *g, const candidate *t, double depth, double waves) {
    double buffers = depth > t->tk || waves > 1 ? c->buffers : 1; /* one step only: nothing to buffer ahead of */
    double a = t->tm * (t->keep == NPS_KEEP_A ? depth : buffers * t->tk) * g->a_bytes;
    double b = t->tn * (t->keep == NPS_KEEP_B ? depth : buffers * t->tk) * g->b_bytes;
    return a + b + t->tm * t->tn * (ACCUMULATOR_BYTES + g->out_bytes);
}

static void price(const nps_tile_chip *c, const nps_tile_gemm *g, const candidate *t, nps_tile_result *r) {
    double rows = ceil_div(g->m, t->tm), cols = ceil_div(g->n, t->tn);
    double depth = ceil_div(g->k, t->split), steps = ceil_div(depth, t->tk);
    double tiles = g->groups * rows * cols * t->split, waves = ceil_div(tiles, c->cores);
    double active = min2(tiles, c->cores);

    /* Runs of consecutive tiles on one core: how many different row (column) panels a run touches. */
    double inner = t->keep == NPS_KEEP_B ? rows : cols;
    double panels = min2(waves, ceil_div(waves, inner));
    double a_loads = t->keep == NPS_KEEP_A ? panels : waves, b_loads = t->keep == NPS_KEEP_B ? panels : waves;
    double a_core = a_loads * t->tm * depth * g->a_bytes, b_core = b_loads * t->tn * depth * g->b_bytes;
    double out_core = waves * t->tm * t->tn * (t->split > 1 ? ACCUMULATOR_BYTES : g->out_bytes);

    double last = depth - (steps - 1) * t->tk;
    double cycles = (steps - 1) * nps_tile_cycles(c, t->tm, t->tn, t->tk) + nps_tile_cycles(c, t->tm, t->tn, last);
    r->compute_s = waves * cycles / c->clock_hz;
    r->port_s = (a_core + b_core + out_core) / c->core_bytes_per_s;

    /* What leaves DRAM. The operand that passes is streamed once per panel of the kept one, unless the shared
     * memory holds it; the other operand is fetched again for every tile, unless a core or the shared
     * memory keeps its panels. Cores that need the same data at the same time are served by one read. */
    double a_once = g->groups * g->m * g->k * g->a_bytes, b_once = g->groups * g->k * g->n * g->b_bytes;
    double out_once = g->groups * g->m * g->n * g->out_bytes;
    double run = min2(waves, inner); /* tiles of one panel in a core's run */
    double a_again, b_again;
    if (t->keep == NPS_KEEP_B) {
        b_again = 1;
        a_again = a_once <= c->shared_bytes ? 1 : panels;
    } else {
        double live = active * t->tm * depth * g->a_bytes;
        a_again = t->keep == NPS_KEEP_A || live <= c->shared_bytes ? 1 : run;
        b_again = b_once <= c->shared_bytes ? 1 : panels;
    }
    double partial = t->split > 1 ? 2 * t->split * g->groups * g->m * g->n * ACCUMULATOR_BYTES : 0;
    double spilled = max2(partial - c->shared_bytes, 0);
    double a_dram = a_once * g->a_cold * a_again, b_dram = b_once * g->b_cold * b_again;
    r->dram_bytes = a_dram + b_dram + out_once * g->out_cold + spilled;
    r->dram_s = r->dram_bytes / c->dram_bytes_per_s;
    r->shared_s = (active * (a_core + b_core + out_core) + partial / 2) / c->shared_bytes_per_s;

    /* The pipeline: the first step's operands arrive, then each step takes the slower of its load and its
     * compute, then the last results leave. */
    double step_bytes = t->tk * (t->tm * g->a_bytes + t->tn * g->b_bytes);
    double supply = min2(c->core_bytes_per_s, min2(c->shared_bytes_per_s, c->dram_bytes_per_s) / active);
    double wait = c->transfer_s + (g->a_cold + g->b_cold > 0 ? c->latency_s : 0);
    double first = wait + step_bytes / max2(supply, DBL_MIN);
    double last_step = nps_tile_cycles(c, t->tm, t->tn, last) / c->clock_hz;
    double out_rate = min2(c->core_bytes_per_s, c->shared_bytes_per_s);
    if (g->out_cold > 0) out_rate = min2(out_rate, c->dram_bytes_per_s / g->out_cold);
    double last_store = c->transfer_s + t->tm * t->tn * (t->split > 1 ? ACCUMULATOR_BYTES : g->out_bytes) / out_rate;
    /* A core's loads follow one another, each at the slower of its way in and of its core's share of DRAM. */
    double flow = min2(c->core_bytes_per_s, c->shared_bytes_per_s / active), loads = waves * steps;
    double share = c->dram_bytes_per_s * active;
    double a_fill = max2(a_core / flow, a_dram / share), b_fill = max2(b_core / flow, b_dram / share);
    double filling = max2(a_fill + b_fill, r->dram_s);
    /* A buffer is asked for, filled and used before it is asked for again; what is kept is not asked for again. */
    double asked = t->keep == NPS_KEEP_A ? b_fill : t->keep == NPS_KEEP_B ? a_fill : filling;
    double rounds = (double)(int64_t)((loads - 1) / c->buffers);
    double turns = rounds * (wait + (asked + r->compute_s) / loads) + last_step;
    turns = max2(turns, filling * (loads - 1) / loads + last_step);
    /* The results of a tile leave before the next one's are staged. */
    double staged = (waves - 1) * (last_step + last_store) + r->compute_s / waves;
    double busy = max2(max2(r->compute_s, turns), staged);
    double others = max2(max2(r->dram_s, r->port_s), max2(r->shared_s, g->vector_s));
    r->time_s = max2(first + busy + last_store, wait + others + last_step);
    /* Split reductions wait for each other once. */
    if (t->split > 1) r->time_s += c->transfer_s + t->split * t->tm * t->tn * ACCUMULATOR_BYTES / c->core_bytes_per_s;
    r->waves = waves;
    r->steps = waves * steps;
}

int nps_tile_search(const nps_tile_chip *c, const nps_tile_gemm *g, int64_t count_m, const void *tms, int64_t count_n,
                    const void *tns, int64_t count_k, const void *tks, int64_t splits, const void *split_list,
                    nps_tile_result *best) {
    const int64_t *tm = tms, *tn = tns, *tk = tks, *split = split_list;
    nps_tile_result r;
    int64_t tried = 0;
    best->time_s = DBL_MAX;
    for (int64_t i = 0; i < count_m; i++)
        for (int64_t j = 0; j < count_n; j++)
            for (int64_t s = 0; s < splits; s++) {
                double depth = ceil_div(g->k, (double)split[s]);
                double tiles = g->groups * ceil_div(g->m, (double)tm[i]) * ceil_div(g->n, (double)tn[j]) * (double)split[s];
                double waves = ceil_div(tiles, c->cores), work = waves * (double)tm[i] * (double)tn[j] * depth;
                /* Not even a perfectly used engine would make these tiles in time. */
                if (work / (c->macs * c->clock_hz) >= best->time_s) continue;
                for (int64_t l = 0; l < count_k; l++) {
                    if (l + 1 < count_k && (double)tk[l + 1] >= depth) continue; /* a shorter edge covers it too */
                    for (int32_t keep = NPS_KEEP_NONE; keep <= NPS_KEEP_B; keep++) {
                        if (g->only_keep && keep != g->only_keep - 1) continue;
                        candidate t = {(double)tm[i], (double)tn[j], min2((double)tk[l], depth), (double)split[s], keep};
                        tried++;
                        if (held_bytes(c, g, &t, depth, waves) > c->core_bytes) continue;
                        price(c, g, &t, &r);
                        if (r.time_s >= best->time_s) continue; /* ties: the first of the menu */
                        *best = r;
                        best->tm = tm[i], best->tn = tn[j], best->tk = (int64_t)t.tk, best->split = split[s];
                        best->keep = keep;
                    }
                }
            }
    best->candidates = tried;
    return best->time_s < DBL_MAX ? 0 : -1;
}

/* See attention.h. A core takes a block of query rows (heads that share keys are rows of one matrix) through its keys;
 * with fewer blocks than cores, several cores share the keys of a block and merge once. */
#include "csrc/sim/attention.h"

#include <math.h>

static inline double max2(double x, double y) { return x > y ? x : y; }
static inline double min2(double x, double y) { return x < y ? x : y; }

/* What a batch asks of the chip, whatever the block. */
typedef struct {
    double new_tokens, total, groups, packed;
    double average;         /* keys a query sees */
    double bytes, dram_bytes, flops;
    double vector_s;
} demand;

typedef struct {
    double time_s, dram_s, other_s, dram_bytes; /* other_s: the slowest resource but main memory */
} timing;

/* Keys that the queries at positions 1 ... x see together. */
static inline double seen_below(double x, double window) {
    double full = min2(x, window);
    return full * (full + 1) / 2 + (x - full) * window;
}

static demand demand_of(const nps_attention *a, double batch, double new_tokens, double past) {
    demand d = {.new_tokens = new_tokens, .total = past + new_tokens, .groups = batch * a->kv_heads,
                .packed = a->heads / a->kv_heads};
    double visible = seen_below(d.total, a->window) - seen_below(past, a->window);
    double pairs = batch * a->heads * visible, rows = batch * a->heads * new_tokens;
    d.average = visible / new_tokens;
    d.flops = a->pair_flops * pairs;
    d.vector_s = pairs * a->pair_vector_s + rows * a->row_vector_s;
    d.dram_bytes = d.bytes = batch * min2(past, a->window - 1) * a->past_bytes;
    for (int i = 0; i < NPS_ATTENTION_TENSORS; i++) {
        double size = batch * new_tokens * a->token_bytes[i];
        d.bytes += size;
        d.dram_bytes += a->spills[i] ? max2(size - a->chip_bytes, 0) : size;
    }
    return d;
}

static timing with_block(const nps_attention *a, const demand *d, int b) {
    double rows = a->rows[b], keys = a->keys[b], positions = rows / d->packed;
    double blocks = ceil(d->packed * d->new_tokens / rows), items = d->groups * blocks;
    /* Inside a block the last row sees up to block / 2 keys more than the average one. */
    double block = min2(positions, d->new_tokens), most = min2(d->total, a->window + block);
    double reach = items <= a->cores ? most : min2(d->average + block / 2, most);
    double steps = ceil(reach / keys), split = min2(max2(floor(a->cores / items), 1), steps);
    double each = ceil(steps / split), rounds = ceil(items * split / a->cores) * each;

    double matrix_s = rounds * a->block_s[b], vector_s = rounds * a->softmax_s[b];
    double busy = a->overlap ? max2(matrix_s, vector_s) : matrix_s + vector_s;
    double step_bytes = keys * a->read_bytes;
    /* One pass over the keys of a group serves the blocks that run side by side; the next finds what shared memory
     * holds. */
    double passes = ceil(blocks / a->readers), again = max2(d->average * a->read_bytes - a->shared_bytes, 0);
    double moved = d->dram_bytes + d->groups * (passes - 1) * again;
    double port_s = rounds * step_bytes / a->core_bytes_per_s, dram_s = moved / a->cache_bytes_per_s;
    double shared_s = max2(items * split * each * step_bytes, d->bytes) / a->shared_bytes_per_s;
    double wait = a->transfer_s + a->latency_s;
    double first = wait + step_bytes * min2(items * split, a->cores) / a->cache_bytes_per_s;
    /* A buffer is asked for, filled and used before it is asked for again. */
    if (rounds > 1)
        busy = max2(busy, (rounds * wait + max2(port_s, dram_s) + matrix_s + vector_s) / a->buffers);
    double rest = max2(max2(port_s, shared_s), max2(dram_s, d->vector_s));
    timing t = {max2(first + busy, a->transfer_s + rest + a->block_s[b] + a->transfer_s), dram_s,
                max2(max2(matrix_s, vector_s), max2(port_s, shared_s)), moved};
    if (split > 1) t.time_s += a->transfer_s + split * rows * a->value_dim * 4 / a->core_bytes_per_s;
    return t;
}

/* The fastest block, and never less than the slowest resource takes at its peak. */
static timing time_of(const nps_attention *a, const demand *d) {
    timing least = {0, d->dram_bytes / a->dram_bytes_per_s, max2(d->flops / a->flops_per_s, d->vector_s), d->dram_bytes};
    least.other_s = max2(least.other_s, d->bytes * a->byte_s);
    least.time_s = max2(least.dram_s, least.other_s);
    if (!a->blocks) return least;
    timing best = {INFINITY, 0, 0, 0};
    for (int b = 0; b < a->blocks; b++) {
        timing t = with_block(a, d, b);
        if (t.time_s < best.time_s) best = t;
        /* One block that holds every row is as good as any larger one. */
        if (a->rows[b] >= d->packed * d->new_tokens && (b + 1 == a->blocks || a->rows[b + 1] > a->rows[b])) break;
    }
    best.time_s = max2(best.time_s, least.time_s);
    best.dram_s = max2(best.dram_s, least.dram_s);
    best.other_s = max2(best.other_s, least.other_s);
    return best;
}

void nps_attention_price(const nps_attention *ops, int64_t count, double batch, double new_tokens, double past,
                         double *seconds_joules) {
    double seconds = 0, joules = 0;
    for (int64_t i = 0; i < count; i++) {
        const nps_attention *a = &ops[i];
        demand d = demand_of(a, ceil(batch / a->groups), new_tokens, past);
        timing t = time_of(a, &d);
        /* What no resource is busy with stays as long as it is. */
        double idle = t.time_s - max2(t.dram_s, t.other_s);
        seconds += a->count * (max2(t.dram_s / a->memory, t.other_s / a->compute) + max2(idle, 0));
        joules += a->count * (a->flop_j * d.flops + a->byte_j * d.bytes + a->dram_byte_j * t.dram_bytes);
    }
    seconds_joules[0] = seconds;
    seconds_joules[1] = joules;
}

void nps_attention_prices(const nps_attention *ops, int64_t count, int64_t points, const double *batch,
                          const double *new_tokens, const double *past, double *seconds_joules) {
    for (int64_t i = 0; i < points; i++)
        nps_attention_price(ops, count, batch[i], new_tokens[i], past[i], seconds_joules + 2 * i);
}

/* The event loop of the cycle model; see cycle.h for its rules. */
#include "csrc/sim/cycle.h"

#include <stdlib.h>
#include <string.h>

#include "csrc/sim/cycle_dram.h"

#define MAX_BLOCK_BYTES 1e18 /* counted in int64 */

enum { END, BEGIN };

typedef struct {
    double time;
    int32_t task;
    int32_t kind;
} event;

typedef struct {
    int64_t next, past; /* next task to issue, end of the list */
    int64_t moving;     /* transfers: next task to begin, unless it moves nothing */
    int32_t port;
    int32_t busy; /* computes, or moves data */
} queue_state;

typedef struct {
    const nps_cycle_machine *m;
    const int32_t *queue, *block, *deps;
    const double *delay, *bytes, *port_rate, *block_bytes;
    const int64_t *first_dep;
    double *start, *begin, *end, *block_begin, *block_end;
    queue_state *queues;
    int32_t *order;      /* tasks by queue */
    int64_t *first_next; /* tasks + 1: who depends on a task */
    int32_t *next_of;
    int32_t *pending; /* dependencies that have not ended */
    int32_t *waiter, *first_waiter; /* transfers that wait for a block that moves */
    double *port_free;
    double fabric_free, dram_free, now;
    event *heap;
    int64_t heap_size, ended;
    nps_cycle_memory *memory; /* NULL: one server */
    nps_cycle_result *result;
} run;

static double max2(double x, double y) { return x > y ? x : y; }

/* ---- events ------------------------------------------------------------------------------------------------- */

static int before(const event *x, const event *y) {
    if (x->time != y->time) return x->time < y->time;
    if (x->kind != y->kind) return x->kind < y->kind;
    return x->task < y->task;
}

static void push(run *r, double time, int32_t kind, int32_t task) {
    event new = {time, task, kind};
    int64_t i = r->heap_size++;
    for (; i && before(&new, &r->heap[(i - 1) / 2]); i = (i - 1) / 2) r->heap[i] = r->heap[(i - 1) / 2];
    r->heap[i] = new;
}

static event pop(run *r) {
    event first = r->heap[0], last = r->heap[--r->heap_size];
    int64_t i = 0, child;
    while ((child = 2 * i + 1) < r->heap_size) {
        if (child + 1 < r->heap_size && before(&r->heap[child + 1], &r->heap[child])) child++;
        if (!before(&r->heap[child], &last)) break;
        r->heap[i] = r->heap[child];
        i = child;
    }
    r->heap[i] = last;
    return first;
}

/* ---- queues --------------------------------------------------------------------------------------------------- */

static int moves(const run *r, int32_t task) { return r->bytes[task] > 0 || r->block[task] >= 0; }

static void begin_next(run *r, queue_state *q) {
    while (q->moving < q->next && !moves(r, r->order[q->moving])) q->moving++;
    if (q->busy || q->moving == q->next) return;
    int32_t task = r->order[q->moving++];
    q->busy = 1;
    push(r, max2(r->now, r->start[task] + r->delay[task]), BEGIN, task);
}

static void issue(run *r, queue_state *q) {
    while (q->next < q->past && !r->pending[r->order[q->next]]) {
        if (q->port < 0 && q->busy) return;
        int32_t task = r->order[q->next++];
        r->start[task] = r->now;
        if (q->port < 0) {
            q->busy = 1;
            r->begin[task] = r->now;
            push(r, r->now + r->delay[task], END, task);
        } else if (moves(r, task)) {
            begin_next(r, q);
        } else {
            r->begin[task] = r->now;
            push(r, r->now, END, task);
        }
    }
}

/* Asks for a block; its end is known at once from a server, later from channels. */
static void fetch(run *r, int32_t b) {
    r->block_begin[b] = r->now;
    if (r->memory) {
        nps_memory_fetch(r->memory, b, r->now);
        return;
    }
    r->dram_free = max2(r->now, r->dram_free) + r->block_bytes[b] / r->m->dram_bytes_per_s;
    r->block_end[b] = r->dram_free;
}

static void begin(run *r, int32_t task) {
    int32_t port = r->queues[r->queue[task]].port, b = r->block[task];
    double bytes = r->bytes[task], fabric_s = bytes / r->m->fabric_bytes_per_s;
    r->begin[task] = r->now;
    r->fabric_free = max2(r->now, r->fabric_free) + fabric_s;
    r->port_free[port] = max2(r->now, r->port_free[port]) + bytes / r->port_rate[port];
    r->result->fabric_busy_s += fabric_s;
    double done = max2(r->fabric_free, r->port_free[port]);
    r->end[task] = done;
    if (b < 0) {
        push(r, done, END, task);
        return;
    }
    if (r->block_begin[b] < 0) fetch(r, b);
    if (r->block_end[b] >= 0) {
        push(r, max2(done, r->block_end[b]), END, task);
        return;
    }
    r->waiter[task] = r->first_waiter[b];
    r->first_waiter[b] = task;
}

static void block_done(void *context, int32_t b, double time) {
    run *r = context;
    r->block_end[b] = time;
    for (int32_t task = r->first_waiter[b]; task >= 0; task = r->waiter[task])
        push(r, max2(r->end[task], time), END, task);
}

static void end(run *r, int32_t task) {
    queue_state *own = &r->queues[r->queue[task]];
    r->end[task] = r->now;
    r->ended++;
    for (int64_t i = r->first_next[task]; i < r->first_next[task + 1]; i++) {
        int32_t next = r->next_of[i];
        if (--r->pending[next]) continue;
        queue_state *q = &r->queues[r->queue[next]];
        if (q->next < q->past && r->order[q->next] == next) issue(r, q);
    }
    if (own->port < 0 || moves(r, task)) own->busy = 0;
    if (own->port < 0)
        issue(r, own);
    else
        begin_next(r, own);
}

static void loop(run *r) {
    for (int64_t q = 0; q < r->m->queues; q++) issue(r, &r->queues[q]);
    for (;;) {
        /* Memory is simulated up to the next event before that is looked at: a block may end sooner. */
        if (r->memory && nps_memory_waits(r->memory, r->heap_size ? r->heap[0].time : -1)) {
            nps_memory_advance(r->memory, block_done, r);
            continue;
        }
        if (!r->heap_size) return;
        event e = pop(r);
        r->now = e.time;
        r->result->events++;
        if (e.kind == END)
            end(r, e.task);
        else
            begin(r, e.task);
    }
}

/* ---- set-up --------------------------------------------------------------------------------------------------- */

static int in_range(const int32_t *values, int64_t n, int64_t low, int64_t past) {
    for (int64_t i = 0; i < n; i++)
        if (values[i] < low || values[i] >= past) return 0;
    return 1;
}

static int valid(const nps_cycle_machine *m, const nps_cycle_program *p) {
    const double *delay = p->delay, *bytes = p->bytes, *moved = p->block_bytes, *rate = p->port_bytes_per_s;
    const int64_t *first = p->first_dep;
    if (m->tasks < 0 || m->tasks >= INT32_MAX || m->queues < 0 || m->queues >= INT32_MAX) return 0;
    if (m->blocks < 0 || m->blocks >= INT32_MAX || m->ports < 0 || m->ports >= INT32_MAX) return 0;
    if (!(m->fabric_bytes_per_s > 0) || !(m->dram_bytes_per_s > 0)) return 0;
    if (!in_range(p->queue, m->tasks, 0, m->queues) || !in_range(p->block, m->tasks, -1, m->blocks)) return 0;
    if (!in_range(p->queue_port, m->queues, -1, m->ports)) return 0;
    if (first[0] != 0) return 0;
    for (int64_t i = 0; i < m->tasks; i++)
        if (!(delay[i] >= 0) || !(bytes[i] >= 0) || first[i + 1] < first[i]) return 0;
    for (int64_t i = 0; i < m->blocks; i++)
        if (!(moved[i] > 0 && moved[i] < MAX_BLOCK_BYTES)) return 0;
    for (int64_t i = 0; i < m->ports; i++)
        if (!(rate[i] > 0)) return 0;
    return in_range(p->deps, first[m->tasks], 0, m->tasks);
}

/* Tasks by queue, in their order, by counting. */
static void sort_by_queue(run *r, const int32_t *queue_port) {
    const nps_cycle_machine *m = r->m;
    for (int64_t i = 0; i < m->tasks; i++) r->queues[r->queue[i]].past++;
    int64_t first = 0;
    for (int64_t q = 0; q < m->queues; q++) {
        int64_t count = r->queues[q].past;
        r->queues[q] = (queue_state){first, first, first, queue_port[q], 0};
        first += count;
    }
    for (int64_t i = 0; i < m->tasks; i++) r->order[r->queues[r->queue[i]].past++] = (int32_t)i;
}

static void invert_deps(run *r) {
    int64_t n = r->m->tasks;
    for (int64_t i = 0; i < r->first_dep[n]; i++) r->first_next[r->deps[i] + 1]++;
    for (int64_t i = 0; i < n; i++) r->first_next[i + 1] += r->first_next[i];
    int64_t *at = r->first_next; /* moved on by one place while filling, then back */
    for (int64_t i = 0; i < n; i++) {
        r->pending[i] = (int32_t)(r->first_dep[i + 1] - r->first_dep[i]);
        for (int64_t d = r->first_dep[i]; d < r->first_dep[i + 1]; d++) r->next_of[at[r->deps[d]]++] = (int32_t)i;
    }
    memmove(at + 1, at, (size_t)n * sizeof *at);
    at[0] = 0;
}

static int allocate(run *r) {
    const nps_cycle_machine *m = r->m;
    size_t n = (size_t)m->tasks, deps = (size_t)r->first_dep[n];
    r->queues = calloc((size_t)m->queues + 1, sizeof *r->queues);
    r->order = malloc((n + 1) * sizeof *r->order);
    r->first_next = calloc(n + 1, sizeof *r->first_next);
    r->next_of = malloc((deps + 1) * sizeof *r->next_of);
    r->pending = malloc((n + 1) * sizeof *r->pending);
    r->waiter = malloc((n + 1) * sizeof *r->waiter);
    r->first_waiter = malloc(((size_t)m->blocks + 1) * sizeof *r->first_waiter);
    r->port_free = calloc((size_t)m->ports + 1, sizeof *r->port_free);
    r->heap = malloc((n + 1) * sizeof *r->heap);
    return r->queues && r->order && r->first_next && r->next_of && r->pending && r->waiter && r->first_waiter &&
           r->port_free && r->heap;
}

static void release(run *r) {
    void *all[] = {r->queues, r->order,        r->first_next, r->next_of, r->pending,
                   r->waiter, r->first_waiter, r->port_free,  r->heap};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    nps_memory_free(r->memory);
}

int nps_cycle_run(const nps_cycle_machine *machine, const nps_cycle_program *p, const nps_dram_config *config,
                  const nps_dram_map *map, nps_cycle_result *result) {
    if (!machine || !p || !result || !valid(machine, p)) return NPS_EINVAL;
    *result = (nps_cycle_result){0};
    run r = {.m = machine, .queue = p->queue, .block = p->block, .deps = p->deps, .delay = p->delay,
             .bytes = p->bytes, .port_rate = p->port_bytes_per_s, .block_bytes = p->block_bytes,
             .first_dep = p->first_dep, .start = p->start, .begin = p->begin, .end = p->end,
             .block_begin = p->block_begin, .block_end = p->block_end, .result = result};
    int status = NPS_OK;
    if (config) r.memory = nps_memory_new(machine, p, config, map, &status);
    if (status == NPS_OK && !allocate(&r)) status = NPS_ENOMEM;
    if (status == NPS_OK) {
        for (int64_t b = 0; b < machine->blocks; b++) {
            r.block_begin[b] = r.block_end[b] = -1;
            r.first_waiter[b] = -1;
        }
        sort_by_queue(&r, p->queue_port);
        invert_deps(&r);
        loop(&r);
        result->makespan_s = r.now;
        if (r.memory) nps_memory_report(r.memory, result);
        if (r.memory && nps_memory_failed(r.memory))
            status = NPS_ENOMEM;
        else if (r.ended < machine->tasks)
            status = NPS_EDEADLOCK;
    }
    release(&r);
    return status;
}

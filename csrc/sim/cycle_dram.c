/* See cycle_dram.h. Requests wait in a ring per channel until the scheduler's window has room. */
#include "csrc/sim/cycle_dram.h"

#include <stdlib.h>
#include <string.h>

#include "csrc/sim/dram_state.h"

enum { PAGE_BYTES = 4096, FIRST_ROOM = 256 };

typedef struct {
    int32_t row, block;
    uint8_t pc, sid, group, bank;
} request;

typedef struct {
    request *ring;
    int64_t head, count, room; /* room is a power of two */
    int32_t age;
} backlog;

struct nps_cycle_memory {
    const nps_cycle_machine *m;
    const nps_dram_config *config;
    const nps_dram_map *map;
    const double *bytes;
    const int64_t *address, *run, *stride;
    const uint8_t *write;
    channel *channels;
    backlog *backlogs;
    int32_t *left;  /* bursts of a block that were not served */
    int64_t *last;  /* tick of its last data */
    int64_t under_way, quantum; /* bursts; quanta simulated */
    int failed; /* no memory for a ring */
    run_state state;
    nps_dram_result counts;
};

void nps_memory_free(nps_cycle_memory *memory) {
    if (!memory) return;
    if (memory->backlogs)
        for (int32_t c = 0; c < memory->config->channels; c++) free(memory->backlogs[c].ring);
    free(memory->backlogs);
    free(memory->channels);
    free(memory->left);
    free(memory->last);
    free(memory);
}

static int usable(const nps_cycle_machine *m, const nps_dram_config *config, const nps_dram_map *map) {
    if (!map || !nps_dram_valid(config, map) || config->unified || config->backlog || config->front_window) return 0;
    return m->quantum_ticks > 0 && m->tick_s > 0 && m->burst_bytes > 0 && m->devices >= 0 &&
           (m->devices == 0 || m->device_bytes >= PAGE_BYTES);
}

static int placeable(const nps_cycle_machine *m, const nps_cycle_program *p) {
    const int64_t *address = p->block_address, *run = p->block_run, *stride = p->block_stride;
    for (int64_t b = 0; b < m->blocks; b++)
        if (address[b] < 0 || run[b] <= 0 || stride[b] < 0) return 0;
    return 1;
}

nps_cycle_memory *nps_memory_new(const nps_cycle_machine *machine, const nps_cycle_program *p,
                                 const nps_dram_config *config, const nps_dram_map *map, int *status) {
    *status = NPS_EINVAL;
    if (!usable(machine, config, map) || !placeable(machine, p)) return NULL;
    *status = NPS_ENOMEM;
    nps_cycle_memory *memory = calloc(1, sizeof *memory);
    if (!memory) return NULL;
    *memory = (nps_cycle_memory){.m = machine, .config = config, .map = map, .bytes = p->block_bytes,
                                 .address = p->block_address, .run = p->block_run, .stride = p->block_stride,
                                 .write = p->block_write};
    size_t channels = (size_t)config->channels, blocks = (size_t)machine->blocks + 1;
    memory->channels = malloc(channels * sizeof(channel));
    memory->backlogs = calloc(channels, sizeof(backlog));
    memory->left = calloc(blocks, sizeof *memory->left);
    memory->last = calloc(blocks, sizeof *memory->last);
    if (!memory->channels || !memory->backlogs || !memory->left || !memory->last) {
        nps_memory_free(memory);
        return NULL;
    }
    memory->state = (run_state){.cfg = config, .map = map, .result = &memory->counts};
    for (int32_t c = 0; c < config->channels; c++) nps_channel_init(&memory->channels[c], config, c);
    *status = NPS_OK;
    return memory;
}

static void append(nps_cycle_memory *memory, int32_t c, request r) {
    backlog *b = &memory->backlogs[c];
    if (b->count == b->room) {
        int64_t room = b->room ? 2 * b->room : FIRST_ROOM;
        request *ring = malloc((size_t)room * sizeof *ring);
        if (!ring) {
            memory->failed = 1;
            return;
        }
        for (int64_t i = 0; i < b->count; i++) ring[i] = b->ring[(b->head + i) & (b->room - 1)];
        free(b->ring);
        b->ring = ring;
        b->room = room;
        b->head = 0;
    }
    b->ring[(b->head + b->count++) & (b->room - 1)] = r;
}

/* Devices that are no power of two take turns by pages, as npusim/cost/dram.py deals them out. */
static int64_t placed(const nps_cycle_memory *memory, int64_t address) {
    const nps_cycle_machine *m = memory->m;
    if (!m->devices) return address % memory->map->limit;
    address %= m->device_bytes * m->devices;
    int64_t page = address / PAGE_BYTES;
    return page % m->devices * m->device_bytes + page / m->devices * PAGE_BYTES + address % PAGE_BYTES;
}

/* An idle channel goes on refreshing: done here when it is needed again. */
static void wake(nps_cycle_memory *memory, channel *c) {
    int64_t now = memory->quantum * memory->m->quantum_ticks;
    for (nps_channel_plan(c); c->plan.tick <= now; nps_channel_plan(c)) nps_channel_issue(c, &memory->state);
    c->now = max64(c->now, now);
}

static void add_burst(nps_cycle_memory *memory, int32_t block, int64_t address) {
    int32_t field[NPS_FIELDS];
    nps_decode_one(memory->map, placed(memory, address), field);
    int32_t c = field[NPS_CHANNEL];
    channel *ch = &memory->channels[c];
    if (!memory->backlogs[c].count && !ch->waiting[0] && !ch->waiting[1]) wake(memory, ch);
    append(memory, c, (request){field[NPS_ROW], block, (uint8_t)field[NPS_PC], (uint8_t)field[NPS_SID],
                                (uint8_t)field[NPS_GROUP], (uint8_t)field[NPS_BANK]});
    memory->left[block]++;
    memory->under_way++;
}

void nps_memory_fetch(nps_cycle_memory *memory, int32_t block, double now_s) {
    const nps_cycle_machine *m = memory->m;
    if (!memory->under_way) { /* nothing was simulated while nothing was under way */
        int64_t quanta = (int64_t)(now_s / (m->tick_s * m->quantum_ticks));
        while ((double)quanta * m->quantum_ticks * m->tick_s < now_s) quanta++;
        memory->quantum = max64(memory->quantum, quanta);
    }
    int64_t left = (int64_t)memory->bytes[block], burst = m->burst_bytes, address = memory->address[block];
    left += (double)left < memory->bytes[block];
    for (; left > 0; left -= memory->run[block], address += memory->stride[block]) {
        int64_t past = address + min64(left, memory->run[block]);
        for (int64_t at = address / burst * burst; at < past; at += burst) add_burst(memory, block, at);
    }
}

int nps_memory_waits(const nps_cycle_memory *memory, double time_s) {
    if (!memory->under_way || memory->failed) return 0;
    return time_s < 0 || (double)memory->quantum * memory->m->quantum_ticks * memory->m->tick_s < time_s;
}

/* Hands over, in order, what the scheduler has room for. */
static void admit(nps_cycle_memory *memory, channel *c, backlog *b) {
    for (; b->count; b->count--) {
        const request *r = &b->ring[b->head];
        int write = memory->write[r->block];
        if (c->waiting[write] >= (write ? c->cfg->write_queue : c->cfg->window)) return;
        const int32_t field[NPS_FIELDS] = {[NPS_PC] = r->pc, [NPS_SID] = r->sid, [NPS_GROUP] = r->group,
                                           [NPS_BANK] = r->bank, [NPS_ROW] = r->row};
        nps_channel_insert(c, b->age++, r->block, write, field);
        b->head = (b->head + 1) & (b->room - 1);
    }
}

static void advance_channel(nps_cycle_memory *memory, int32_t index, int64_t until,
                            void (*done)(void *, int32_t, double), void *context) {
    channel *c = &memory->channels[index];
    backlog *b = &memory->backlogs[index];
    for (;;) {
        admit(memory, c, b);
        if (!c->waiting[0] && !c->waiting[1]) return;
        nps_channel_plan(c);
        if (c->plan.tick > until) break;
        if (!nps_channel_issue(c, &memory->state)) continue; /* not a burst */
        int32_t block = c->issued_tag;
        memory->last[block] = max64(memory->last[block], c->issued_done);
        memory->under_way--;
        if (!--memory->left[block]) done(context, block, (double)memory->last[block] * memory->m->tick_s);
    }
    /* What arrives from now on is not served in the past. */
    c->now = max64(c->now, until);
}

void nps_memory_advance(nps_cycle_memory *memory, void (*done)(void *context, int32_t block, double time_s),
                        void *context) {
    int64_t until = ++memory->quantum * memory->m->quantum_ticks;
    for (int32_t c = 0; c < memory->config->channels; c++) advance_channel(memory, c, until, done, context);
}

int nps_memory_failed(const nps_cycle_memory *memory) { return memory->failed; }

void nps_memory_report(const nps_cycle_memory *memory, nps_cycle_result *result) {
    const nps_dram_result *n = &memory->counts;
    result->bursts = n->reads + n->writes;
    result->row_hits = n->hits;
    result->row_closed = n->closed;
    result->row_conflicts = n->conflicts;
    result->activates = n->activates;
    result->refreshes = n->refreshes;
    result->events += result->bursts + n->activates + n->precharges + n->refreshes;
}

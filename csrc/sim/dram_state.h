/* State of one channel while it runs; shared by the scheduler and the front end. */
#ifndef NPS_DRAM_STATE_H
#define NPS_DRAM_STATE_H

#include "csrc/sim/dram.h"

#define NPS_INLINE static inline __attribute__((always_inline))

enum {
    WORDS = NPS_MAX_BANKS / 64,
    MAX_PCS = 4,
    MAX_SIDS = 8,
    MAX_GROUPS = 64, /* bank groups of a channel, over pseudo-channels and SIDs */
    NONE = -1,
};

#define FOREVER INT64_MAX

NPS_INLINE int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
NPS_INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

/* A waiting request. Requests enter a channel in trace order, so a smaller index is older. */
typedef struct {
    int32_t row, index;
    int16_t next, bank;
    int32_t tag; /* whose it is; nothing here looks at it */
} node;

typedef struct {
    int16_t head, tail;
} fifo;

typedef struct {
    int64_t col_ready[2];    /* earliest read and write by this bank's own constraints */
    int32_t open_row;        /* NONE when precharged */
    int32_t hits;            /* column accesses since the row was opened */
    fifo hit[2], miss[2];    /* waiting reads and writes, to the open row and to others */
    int16_t group, pc, rank; /* rank: SID over all pseudo-channels */
    uint8_t fresh, conflict; /* next access opened the row; a precharge was needed for it */
} bank;

typedef struct {
    int64_t act_ready, pre_ready; /* tRRD_S and tRREFD; tPPD */
    int64_t faw[4];               /* ticks of the last four activates */
    int32_t faw_next;
    int32_t refresh_bank; /* per-bank refresh: which is next */
    int64_t refresh_next; /* when the next refresh falls due */
    uint8_t refresh_pending;
    uint64_t mask[WORDS]; /* its banks */
} pseudo;

/* A command that could be issued: when at the earliest, and the age of the request it serves. */
typedef struct {
    int64_t tick;
    int32_t age, kind, bank, write;
} choice;

typedef struct {
    const nps_dram_config *cfg;
    int64_t now;
    int64_t bus[2]; /* when the column and the row bus are free; one of them serves both without dual_bus */
    int32_t row_bus;
    int32_t words, bank_count, first_bank; /* first_bank: index over all channels */
    uint64_t has_hit[2][WORDS], has_miss[2][WORDS], capped[2][WORDS], open[WORDS], blocked[WORDS];
    int64_t group_col[2][MAX_GROUPS], group_act[MAX_GROUPS], rank_col[2][MAX_PCS * MAX_SIDS];
    pseudo pc[MAX_PCS];
    int32_t waiting[2]; /* reads and writes in the queues */
    int32_t write_mode;
    /* Accepted requests that the scheduler does not see yet (backlog, unified): rings of trace indices. */
    int32_t held[2], held_head[2], held_index[2][NPS_MAX_QUEUE];
    int32_t draining; /* unified: writes still to move into the window */
    int16_t free_node;
    int32_t next_request; /* one front end per channel: trace index, NONE at the end */
    int32_t issued_tag;   /* of the request whose column command went out last, and when its data has passed */
    int64_t issued_done;
    choice plan;             /* what nps_channel_plan chose */
    choice column, activate, precharge; /* the best of each, kept from plan to plan */
    int32_t stale_column, stale_activate, stale_precharge;
    /* Per bank, apart from `bank` because all of them are looked through for row commands. */
    int64_t act_ready[NPS_MAX_BANKS], pre_ready[NPS_MAX_BANKS];
    uint32_t miss_age[2][NPS_MAX_BANKS]; /* of the oldest request to another row */
    uint8_t group_of[NPS_MAX_BANKS];
    bank banks[NPS_MAX_BANKS];
    node nodes[2 * NPS_MAX_QUEUE];
} channel;

/* What all channels share during a run. */
typedef struct {
    const nps_dram_config *cfg;
    const nps_dram_map *map;
    const int64_t *addresses, *arrivals;
    const uint8_t *writes;
    int64_t *start, *done, *log;
    int64_t log_rows;
    nps_dram_result *result;
} run_state;

void nps_decode_one(const nps_dram_map *map, int64_t address, int32_t field[NPS_FIELDS]);
int nps_map_valid(const nps_dram_map *map);
int nps_dram_valid(const nps_dram_config *config, const nps_dram_map *map);

void nps_channel_init(channel *c, const nps_dram_config *cfg, int32_t index);
void nps_channel_insert(channel *c, int32_t index, int32_t tag, int write, const int32_t field[NPS_FIELDS]);
void nps_channel_plan(channel *c);                /* fills plan; its tick is FOREVER when nothing waits */
int nps_channel_issue(channel *c, run_state *run); /* issues it; true when a queue entry became free */

#endif

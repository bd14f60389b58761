/* Cycle-level DRAM model: channels of pseudo-channels of banks behind a first-ready scheduler.
 *
 * Time is counted in integer ticks: one tick is a command clock, or half of one where commands may start on
 * either edge (HBM3, HBM4). A request is one burst. All buffers belong to the caller; nothing is allocated.
 *
 * The rules are those of the JEDEC standards (JESD235 HBM2, JESD238 HBM3, JESD250 GDDR6, JESD209-5 LPDDR5) as
 * npusim/catalog/memories spells them out; the scheduler is FR-FCFS (Rixner et al., "Memory access scheduling",
 * ISCA 2000) with a posted-write queue drained between two watermarks. */
#ifndef NPS_DRAM_H
#define NPS_DRAM_H

#include <stdint.h>

enum {
    NPS_OK = 0,
    NPS_EINVAL = 1,    /* a configuration out of bounds, a null pointer, a negative size */
    NPS_EOVERFLOW = 2, /* a size does not fit 63 bits */
    NPS_EADDRESS = 3,  /* an address is negative or above the map's limit */
    NPS_EARRIVAL = 4,  /* arrivals are negative, decrease, or are too late for 63-bit time */
    NPS_ESPACE = 5,    /* the workspace is too small */
};

/* Kinds of logged commands. */
enum {
    NPS_ACT = 0,
    NPS_PRE = 1,
    NPS_PREAB = 2,
    NPS_RD = 3,
    NPS_WR = 4,
    NPS_REFAB = 5,
    NPS_REFPB = 6,
};

enum { NPS_REFRESH_NONE = 0, NPS_REFRESH_ALL_BANK = 1, NPS_REFRESH_PER_BANK = 2 };

/* Fields of a decoded address, in the order nps_dram_decode writes them. */
enum { NPS_CHANNEL, NPS_PC, NPS_SID, NPS_GROUP, NPS_BANK, NPS_ROW, NPS_COLUMN, NPS_FIELDS };

enum { NPS_MAX_SEGMENTS = 64, NPS_MAX_BANKS = 256, NPS_MAX_QUEUE = 512, NPS_MAX_CHANNELS = 1024 };

/* A field is the XOR of address slices: field ^= ((address >> shift) & mask(width)) << position. */
typedef struct {
    int32_t segments;
    int32_t shift[NPS_MAX_SEGMENTS], width[NPS_MAX_SEGMENTS];
    int32_t field[NPS_MAX_SEGMENTS], position[NPS_MAX_SEGMENTS];
    int32_t third_bit; /* address bit that selects the third of three SIDs, -1 for none; see dram_map.c */
    int32_t top_row;   /* row bit that the SID bit becomes in the third SID */
    int64_t limit;     /* addresses are below this */
} nps_dram_map;

/* Geometry, timings in ticks from command to command, and the controller. */
typedef struct {
    int32_t channels, pcs, sids, groups, banks; /* pcs per channel, sids per pc, groups per sid, banks per group */
    int32_t dual_bus;                           /* row and column commands have buses of their own */
    int32_t edge;                               /* ticks per clock; all but precharges start on whole clocks */
    int32_t act_ticks, pre_ticks, col_ticks;    /* bus occupancy */
    int32_t rcd_rd, rcd_wr, rp, rp_ab, ras, rc, cl, cwl, bl;
    int32_t ccd_s, ccd_l, ccd_r, rrd_s, rrd_l, faw, ppd;
    int32_t rd_to_wr, wr_to_rd_s, wr_to_rd_l, rtp, wr_to_pre;
    int32_t refresh, rfc, refi, rfc_pb, refi_pb, rrefd;
    int32_t window, write_queue, write_high, write_low; /* entries per channel */
    int32_t backlog;                                    /* reads accepted behind a full window, not yet scheduled */
    int32_t unified;                                    /* writes leave their queue in batches to share the window */
    int32_t hit_cap;                                    /* row hits that may pass an older request, 0: any number */
    int32_t front_window;    /* pending requests of a front end shared by all channels; 0: one per channel */
    int32_t front_issue;     /* requests the shared front end hands over per clock */
    int32_t max_outstanding; /* reads in flight over all channels, 0: any number (shared front end only) */
    int32_t return_ticks;    /* from the end of a read's data until the front end knows */
} nps_dram_config;

typedef struct {
    int64_t end_tick; /* when the last data left the bus */
    int64_t reads, writes, hits, closed, conflicts;
    int64_t activates, precharges, refreshes;
    int64_t log_count; /* commands issued; those beyond the log's room are counted but not written */
} nps_dram_result;

/* Decodes n addresses into NPS_FIELDS arrays of n int32 each, one after the other in `fields`. */
int nps_dram_decode(const nps_dram_map *map, int64_t n, const void *addresses, void *fields);

/* Bytes of workspace nps_dram_run needs, or -1 when the configuration is invalid or the size overflows. */
int64_t nps_dram_workspace(const nps_dram_config *config, int64_t n);

/* Runs n requests to completion.
 *
 * addresses: n int64. writes: n uint8, or NULL for reads only. arrivals: n non-decreasing int64 ticks, or NULL
 * for requests that all wait at tick 0. start, done: n int64 ticks each, when a request entered its queue and when
 * its data had crossed the bus, or NULL. log: log_rows × 4 int64 (tick, kind, bank index over all channels, row),
 * or NULL. In time order per channel. */
int nps_dram_run(const nps_dram_config *config, const nps_dram_map *map, int64_t n, const void *addresses,
                 const void *writes, const void *arrivals, void *start, void *done, void *log, int64_t log_rows,
                 void *workspace, int64_t workspace_bytes, nps_dram_result *result);

#endif

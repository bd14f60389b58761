/* DRAM channels under the cycle model: blocks of data become bursts, bursts become commands.
 *
 * Channels are simulated one after the other over a quantum of time, which keeps a channel's state in the cache; a
 * block that is asked for within a quantum therefore enters at its end. */
#ifndef NPS_CYCLE_DRAM_H
#define NPS_CYCLE_DRAM_H

#include "csrc/sim/cycle.h"

typedef struct nps_cycle_memory nps_cycle_memory;

/* NULL with a status when the description is invalid or memory runs out. */
nps_cycle_memory *nps_memory_new(const nps_cycle_machine *machine, const nps_cycle_program *program,
                                 const nps_dram_config *config, const nps_dram_map *map, int *status);
void nps_memory_free(nps_cycle_memory *memory);

/* Queues the bursts of a block. */
void nps_memory_fetch(nps_cycle_memory *memory, int32_t block, double now_s);

/* Whether bursts are under way and not yet simulated up to `time_s` (negative: nothing else is going to happen). */
int nps_memory_waits(const nps_cycle_memory *memory, double time_s);

/* Simulates one quantum; calls `done` for every block whose last burst was served. */
void nps_memory_advance(nps_cycle_memory *memory, void (*done)(void *context, int32_t block, double time_s),
                        void *context);

/* Whether a queue of bursts found no room: the run is void. */
int nps_memory_failed(const nps_cycle_memory *memory);

/* Adds the counts of commands and bursts. */
void nps_memory_report(const nps_cycle_memory *memory, nps_cycle_result *result);

#endif

/* Event-driven run of a program: tasks on in-order queues, which share core ports, a fabric and DRAM.
 *
 * A task is issued when those it depends on have ended and the task before it in its queue allows it. Without bytes
 * and block it holds its queue for `delay`; in a queue with a port it ends when it is issued. Otherwise, in such a
 * queue, it is a transfer: transfers of a queue are issued one after the other but their set-up (`delay`) overlaps the
 * transfer before; one at a time moves data, through its port and the fabric, each a server that takes transfers in
 * the order in which they begin. A transfer may need a block of data from DRAM (or bring one there): whoever begins
 * first moves it, later ones wait for it where they need it.
 *
 * Events at the same time: ends before begins, then by task. All times are seconds. */
#ifndef NPS_CYCLE_H
#define NPS_CYCLE_H

#include <stdint.h>

#include "csrc/sim/dram.h"

typedef struct {
    int64_t tasks, queues, ports, blocks;
    double fabric_bytes_per_s;
    double dram_bytes_per_s; /* of a memory without timings: one server, in order */
    double tick_s;           /* channels: one tick of nps_dram_config */
    int32_t quantum_ticks;   /* channels: requests enter at multiples of it */
    int32_t devices;         /* channels: devices that take turns by pages, 0 when address bits select them */
    int32_t burst_bytes;
    int64_t device_bytes;
} nps_cycle_machine;

/* Columns of the program and of the result. */
typedef struct {
    const void *queue;            /* int32 per task; a queue runs its tasks in their order */
    const void *delay, *bytes;    /* double per task: seconds; bytes through port and fabric */
    const void *block;            /* int32 per task: block it needs, -1 for none */
    const void *first_dep, *deps; /* int64 tasks + 1, int32: task i needs deps[first_dep[i]] ... to have ended */
    const void *queue_port;       /* int32 per queue: port of its transfers, -1 for a queue that computes */
    const void *port_bytes_per_s; /* double per port */
    const void *block_bytes;      /* double per block: bytes that pass DRAM */
    const void *block_address, *block_run, *block_stride; /* channels, int64: contiguous bytes every stride */
    const void *block_write;      /* uint8 */
    void *start, *begin, *end;    /* double per task: issued; data begins to move; ended */
    void *block_begin, *block_end; /* double per block: first asked for, last data moved; -1 when never needed */
} nps_cycle_program;

typedef struct {
    double makespan_s, fabric_busy_s;
    int64_t events; /* ends, begins and DRAM commands */
    int64_t bursts, row_hits, row_closed, row_conflicts, activates, refreshes;
} nps_cycle_result;

enum { NPS_ENOMEM = 6, NPS_EDEADLOCK = 7 };

/* Runs the program. `config` and `map` describe DRAM channels, or are NULL for a memory of a fixed rate. Returns
 * NPS_EINVAL for an index out of range, NPS_ENOMEM, or NPS_EDEADLOCK when tasks wait for each other in a circle. */
int nps_cycle_run(const nps_cycle_machine *machine, const nps_cycle_program *program, const nps_dram_config *config,
                  const nps_dram_map *map, nps_cycle_result *result);

#endif

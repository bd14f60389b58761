/* Closed-form time of a GEMM under a mapping, and the best mapping of a menu. */
#ifndef NPS_TILE_H
#define NPS_TILE_H

#include <stdint.h>

enum { NPS_SYSTOLIC, NPS_DOT, NPS_TENSORCORE };
enum { NPS_DATAFLOW_OS, NPS_DATAFLOW_WS, NPS_DATAFLOW_IS };
/* What stays in a core's memory while the other operand passes: nothing, the rows of a, the columns of b. */
enum { NPS_KEEP_NONE, NPS_KEEP_A, NPS_KEEP_B };

typedef struct {
    int32_t engine, dataflow;
    int32_t overlap;             /* the next fold fills while the current one drains */
    int32_t buffers;             /* copies of a step's operands in a core's memory */
    double rows, cols, arrays;   /* systolic */
    double lanes;                /* dot */
    double sm, sn, sk;           /* tensorcore: instruction shape */
    double macs;                 /* MACs of one core per cycle in this format */
    double cores, clock_hz;
    double core_bytes, core_bytes_per_s;     /* one core's memory, and the rate it is filled at */
    double shared_bytes, shared_bytes_per_s; /* memory the cores share; 0 bytes when there is none */
    double dram_bytes_per_s;
    double transfer_s;           /* set-up of one transfer */
    double latency_s;            /* of main memory, from request to first data */
} nps_tile_chip;

typedef struct {
    double groups, m, n, k;
    double a_bytes, b_bytes, out_bytes;   /* per element */
    double a_cold, b_cold, out_cold;      /* share of the operand that passes DRAM */
    double vector_s;                      /* vector work beside the matrix work, all cores together */
    int32_t only_keep;                    /* 0: whatever is best; else 1 + what has to be kept */
} nps_tile_gemm;

typedef struct {
    double time_s;
    double compute_s, port_s, shared_s, dram_s;  /* busy time per resource of the busiest core, or shared */
    double dram_bytes, waves, steps;
    int64_t tm, tn, tk, split;
    int32_t keep;
    int64_t candidates;
} nps_tile_result;

/* Cycles of one core for a tm × tn × tk tile. */
double nps_tile_cycles(const nps_tile_chip *chip, double tm, double tn, double tk);

/* Tries every combination of the listed tile edges and splits with every residency; keeps the fastest. */
int nps_tile_search(const nps_tile_chip *chip, const nps_tile_gemm *gemm, int64_t count_m, const void *tm, int64_t count_n,
                    const void *tn, int64_t count_k, const void *tk, int64_t splits, const void *split,
                    nps_tile_result *best);

#endif

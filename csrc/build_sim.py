"""Builds ``npusim._sim`` from the C sources (cffi, API mode, stable ABI); see ``build_native.py``.

The declarations are those of ``csrc/sim/dram.h``, with void pointers where numpy arrays are passed.
"""

from glob import glob

from cffi import FFI

CDEF = """
#define NPS_OK ...
#define NPS_EINVAL ...
#define NPS_EOVERFLOW ...
#define NPS_EADDRESS ...
#define NPS_EARRIVAL ...
#define NPS_ESPACE ...
#define NPS_FIELDS ...
#define NPS_MAX_SEGMENTS ...

typedef struct {
    int32_t segments;
    int32_t shift[...], width[...], field[...], position[...];
    int32_t third_bit, top_row;
    int64_t limit;
} nps_dram_map;

typedef struct {
    int32_t channels, pcs, sids, groups, banks;
    int32_t dual_bus, edge;
    int32_t act_ticks, pre_ticks, col_ticks;
    int32_t rcd_rd, rcd_wr, rp, rp_ab, ras, rc, cl, cwl, bl;
    int32_t ccd_s, ccd_l, ccd_r, rrd_s, rrd_l, faw, ppd;
    int32_t rd_to_wr, wr_to_rd_s, wr_to_rd_l, rtp, wr_to_pre;
    int32_t refresh, rfc, refi, rfc_pb, refi_pb, rrefd;
    int32_t window, write_queue, write_high, write_low, backlog, unified, hit_cap;
    int32_t front_window, front_issue, max_outstanding, return_ticks;
} nps_dram_config;

typedef struct {
    int64_t end_tick;
    int64_t reads, writes, hits, closed, conflicts;
    int64_t activates, precharges, refreshes;
    int64_t log_count;
} nps_dram_result;

#define NPS_SYSTOLIC ...
#define NPS_DOT ...
#define NPS_TENSORCORE ...
#define NPS_DATAFLOW_OS ...
#define NPS_DATAFLOW_WS ...
#define NPS_DATAFLOW_IS ...

typedef struct {
    int32_t engine, dataflow;
    int32_t overlap;
    int32_t buffers;
    double rows, cols, arrays;
    double lanes;
    double sm, sn, sk;
    double macs;
    double cores, clock_hz;
    double core_bytes, core_bytes_per_s;
    double shared_bytes, shared_bytes_per_s;
    double dram_bytes_per_s;
    double transfer_s;
} nps_tile_chip;

typedef struct {
    double groups, m, n, k;
    double a_bytes, b_bytes, out_bytes;
    double a_cold, b_cold, out_cold;
    double vector_s;
} nps_tile_gemm;

typedef struct {
    double time_s;
    double compute_s, port_s, shared_s, dram_s;
    double dram_bytes, waves, steps;
    int64_t tm, tn, tk, split;
    int32_t keep;
    int64_t candidates;
} nps_tile_result;

double nps_tile_cycles(const nps_tile_chip *chip, double tm, double tn, double tk);
int nps_tile_search(const nps_tile_chip *chip, const nps_tile_gemm *gemm, int64_t count_m, const void *tm,
                    int64_t count_n, const void *tn, int64_t count_k, const void *tk, int64_t splits,
                    const void *split, nps_tile_result *best);

int nps_dram_decode(const nps_dram_map *map, int64_t n, const void *addresses, void *fields);
int64_t nps_dram_workspace(const nps_dram_config *config, int64_t n);
int nps_dram_run(const nps_dram_config *config, const nps_dram_map *map, int64_t n, const void *addresses,
                 const void *writes, const void *arrivals, void *start, void *done, void *log, int64_t log_rows,
                 void *workspace, int64_t workspace_bytes, nps_dram_result *result);
"""

# As csrc/build_native.py: integers only here, so no flag matters to the results.
CFLAGS = ["-std=c11", "-O3", "-Wall", "-Wextra", "-fvisibility=hidden", "-Wno-unused-parameter"]

ffibuilder = FFI()
ffibuilder.cdef(CDEF)
ffibuilder.set_source(
    "npusim._sim",
    '#include "csrc/sim/dram.h"\n#include "csrc/sim/tile.h"\n',
    sources=sorted(glob("csrc/sim/*.c")),
    depends=sorted(glob("csrc/sim/*.h")),
    include_dirs=["."],
    extra_compile_args=CFLAGS,
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)

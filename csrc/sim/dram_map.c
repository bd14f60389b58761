/* Address maps: fields as XORs of address slices, plus the one non-linear case that is in use. */
#include "csrc/sim/dram_state.h"

int nps_map_valid(const nps_dram_map *map) {
    if (map->segments < 1 || map->segments > NPS_MAX_SEGMENTS || map->limit < 1) return 0;
    if (map->third_bit < -1 || map->third_bit > 61 || map->top_row < 0 || map->top_row > 29) return 0;
    for (int32_t i = 0; i < map->segments; i++) {
        if (map->width[i] < 1 || map->width[i] > 30 || map->shift[i] < 0 || map->shift[i] > 61) return 0;
        if (map->field[i] < 0 || map->field[i] >= NPS_FIELDS) return 0;
        if (map->position[i] < 0 || map->position[i] + map->width[i] > 30) return 0;
    }
    return 1;
}

/* With three SIDs two address bits are one too many. RNGD keeps its 48 GB contiguous by letting the higher one
 * select the third SID and moving the lower one to the top of the row, whose own bit is then always clear. */
void nps_decode_one(const nps_dram_map *map, int64_t address, int32_t field[NPS_FIELDS]) {
    for (int32_t f = 0; f < NPS_FIELDS; f++) field[f] = 0;
    for (int32_t i = 0; i < map->segments; i++) {
        int32_t slice = (int32_t)((address >> map->shift[i]) & ((INT64_C(1) << map->width[i]) - 1));
        field[map->field[i]] ^= slice << map->position[i];
    }
    if (map->third_bit >= 0 && ((address >> map->third_bit) & 1)) {
        field[NPS_ROW] ^= field[NPS_SID] << map->top_row;
        field[NPS_SID] = 2;
    }
}

int nps_dram_decode(const nps_dram_map *map, int64_t n, const void *addresses, void *fields) {
    if (!map || n < 0 || (n && (!addresses || !fields)) || !nps_map_valid(map)) return NPS_EINVAL;
    const int64_t *address = addresses;
    int32_t *out = fields, field[NPS_FIELDS];
    for (int64_t i = 0; i < n; i++) {
        if (address[i] < 0 || address[i] >= map->limit) return NPS_EADDRESS;
        nps_decode_one(map, address[i], field);
        for (int32_t f = 0; f < NPS_FIELDS; f++) out[f * n + i] = field[f];
    }
    return NPS_OK;
}

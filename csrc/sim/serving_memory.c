/* Blocks of the paged KV cache, and the prefix cache that keeps prompts' blocks for others (Kwon et al., PagedAttention,
 * arXiv 2309.06180; vLLM's automatic prefix caching). An entry holds the blocks of one unit of a prompt; entries that
 * nobody uses are given up, least recently used first, when blocks run out. */
#include <stdlib.h>
#include <string.h>

#include "csrc/sim/serving_state.h"

enum { NONE = -1 };

int list_add(slot_list *list, int32_t slot) {
    if (list->count == list->room) {
        int64_t room = list->room ? 2 * list->room : 64;
        int32_t *grown = realloc(list->slots, (size_t)room * sizeof *grown);
        if (!grown) return 0;
        list->slots = grown;
        list->room = room;
    }
    list->slots[list->count++] = slot;
    return 1;
}

int prefix_init(engine *e, int64_t unit_blocks) {
    prefix_cache *p = &e->prefix;
    e->unit_blocks = unit_blocks;
    p->oldest = p->newest = p->free_entry = NONE;
    if (!unit_blocks || e->blocks < unit_blocks) return 1;
    int64_t count = e->blocks / unit_blocks, buckets = 1;
    while (buckets < 2 * count) buckets *= 2;
    p->entries = calloc((size_t)count, sizeof *p->entries);
    p->buckets = malloc((size_t)buckets * sizeof *p->buckets);
    if (!p->entries || !p->buckets) return 0;
    memset(p->buckets, 0xff, (size_t)buckets * sizeof *p->buckets);
    p->mask = buckets - 1;
    for (int64_t i = count; i-- > 0;) p->entries[i].chain = p->free_entry, p->free_entry = (int32_t)i;
    return 1;
}

void prefix_free(engine *e) {
    free(e->prefix.entries);
    free(e->prefix.buckets);
}

static int32_t *bucket(const prefix_cache *p, int64_t key) {
    uint64_t h = (uint64_t)key * 0x9e3779b97f4a7c15u;
    return &p->buckets[(int64_t)(h >> 32) & p->mask];
}

static int32_t look_up(const prefix_cache *p, int64_t key) {
    if (!p->entries) return NONE;
    int32_t i = *bucket(p, key);
    while (i != NONE && p->entries[i].key != key) i = p->entries[i].chain;
    return i;
}

static void unlink_idle(prefix_cache *p, prefix_entry *n) {
    if (n->older != NONE) p->entries[n->older].newer = n->newer;
    else p->oldest = n->newer;
    if (n->newer != NONE) p->entries[n->newer].older = n->older;
    else p->newest = n->older;
    p->idle--;
}

static void link_idle(prefix_cache *p, int32_t i) {
    prefix_entry *n = &p->entries[i];
    n->older = p->newest, n->newer = NONE;
    if (p->newest != NONE) p->entries[p->newest].newer = i;
    else p->oldest = i;
    p->newest = i;
    p->idle++;
}

/* Gives up the entry that nobody has used for longest. */
static void give_up(nps_serving *s, engine *e) {
    prefix_cache *p = &e->prefix;
    int32_t i = p->oldest;
    prefix_entry *n = &p->entries[i];
    unlink_idle(p, n);
    int32_t *at = bucket(p, n->key);
    while (*at != i) at = &p->entries[*at].chain;
    *at = n->chain;
    n->chain = p->free_entry;
    p->free_entry = i;
    e->free_blocks += e->unit_blocks;
    s->totals.blocks_cached -= e->unit_blocks;
}

int blocks_grow(nps_serving *s, engine *e, request *r, int64_t tokens, int64_t fresh) {
    int64_t need = blocks_held(&s->c, tokens, fresh) - r->held_count * e->unit_blocks - r->blocks;
    /* What leaves the window is given back, unless it was reserved for the rest of the prompt. */
    if (need < 0 && (!s->c.window || (s->c.reserve_prompt && !is_decode(r)))) need = 0;
    if (need > blocks_free(e)) return 0;
    while (e->free_blocks < need) give_up(s, e);
    e->free_blocks -= need; /* a need below zero gives back */
    r->blocks += need;
    s->blocks_total += need;
    return 1;
}

void blocks_release(nps_serving *s, engine *e, request *r) {
    e->free_blocks += r->blocks;
    s->blocks_total -= r->blocks;
    r->blocks = 0;
    /* The end of a prompt is given up before its beginning. */
    while (r->held_count) {
        int32_t i = r->held[--r->held_count];
        if (--e->prefix.entries[i].users) continue;
        link_idle(&e->prefix, i);
        s->blocks_total -= e->unit_blocks;
        s->totals.blocks_cached += e->unit_blocks;
    }
    r->filed = 0;
}

int64_t prefix_find(const nps_serving *s, const engine *e, const request *r, int64_t *idle_blocks) {
    *idle_blocks = 0;
    if (!e->unit_blocks) return 0;
    int64_t most = (r->input - 1) / s->c.unit_tokens, units = 0; /* the last token is always computed */
    if (most > r->hash_count) most = r->hash_count;
    for (; units < most; units++) {
        int32_t i = look_up(&e->prefix, r->hashes[units]);
        if (i == NONE) break;
        *idle_blocks += e->prefix.entries[i].users ? 0 : e->unit_blocks;
    }
    return units;
}

static int hold(request *r, int32_t entry) {
    if (!r->held && !(r->held = malloc((size_t)r->hash_count * sizeof *r->held))) return 0;
    r->held[r->held_count++] = entry;
    return 1;
}

int prefix_take(nps_serving *s, engine *e, request *r, int64_t units) {
    for (int64_t u = 0; u < units; u++) {
        int32_t i = look_up(&e->prefix, r->hashes[u]);
        prefix_entry *n = &e->prefix.entries[i];
        if (!n->users++) {
            unlink_idle(&e->prefix, n);
            s->blocks_total += e->unit_blocks;
            s->totals.blocks_cached -= e->unit_blocks;
        }
        if (!hold(r, i)) return 0;
    }
    r->filed = units;
    return 1;
}

/* Files the units of the prompt that are computed now; what another request has filed before stays a private copy. */
int prefix_file(engine *e, request *r) {
    prefix_cache *p = &e->prefix;
    if (!p->entries) return 1;
    int64_t tokens = r->computed < r->input ? r->computed : r->input;
    int64_t unit = r->hash_count ? e->unit_tokens : 1;
    for (; r->filed < r->hash_count && (r->filed + 1) * unit <= tokens; r->filed++) {
        int64_t key = r->hashes[r->filed];
        if (look_up(p, key) != NONE) continue;
        int32_t i = p->free_entry, *first = bucket(p, key);
        prefix_entry *n = &p->entries[i];
        p->free_entry = n->chain;
        n->key = key, n->users = 1, n->chain = *first;
        *first = i;
        r->blocks -= e->unit_blocks; /* they belong to the entry now */
        if (!hold(r, i)) return 0;
    }
    return 1;
}

int64_t blocks_counted(const nps_serving *s) {
    int64_t used = 0;
    for (int64_t k = 0; k < s->c.engines; k++) {
        const engine *e = &s->engines[k];
        for (int64_t i = 0; i < e->running.count; i++) used += s->requests[e->running.slots[i]].blocks;
        const prefix_cache *p = &e->prefix;
        for (int64_t i = 0; p->entries && i <= p->mask; i++)
            for (int32_t n = p->buckets[i]; n != NONE; n = p->entries[n].chain)
                used += p->entries[n].users ? e->unit_blocks : 0;
    }
    return used + s->moving_blocks;
}

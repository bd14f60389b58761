#include "../common/threads.h"
#include "qgemm.h"

#include <stdlib.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

typedef struct {
    int64_t n, k;
    const uint8_t *b;
    int64_t rsb, csb;
    uint8_t flip;
    int8_t *packed;
    int32_t *sums;
    uint8_t *small;
} pack_job;

/* Four rows of 16 adjacent columns into 16 quads. */
NPK_INLINE void interleave(const uint8_t *b, int64_t rsb, uint8_t flip, int8_t *dst) {
#if defined(__SSE2__) /* part of every x86-64 */
    const __m128i mask = _mm_set1_epi8((char)flip);
    __m128i r[4];
    for (int t = 0; t < 4; t++)
        r[t] = _mm_xor_si128(_mm_loadu_si128((const __m128i *)(b + t * rsb)), mask);
    __m128i low01 = _mm_unpacklo_epi8(r[0], r[1]), high01 = _mm_unpackhi_epi8(r[0], r[1]);
    __m128i low23 = _mm_unpacklo_epi8(r[2], r[3]), high23 = _mm_unpackhi_epi8(r[2], r[3]);
    __m128i *to = (__m128i *)dst;
    _mm_storeu_si128(to, _mm_unpacklo_epi16(low01, low23));
    _mm_storeu_si128(to + 1, _mm_unpackhi_epi16(low01, low23));
    _mm_storeu_si128(to + 2, _mm_unpacklo_epi16(high01, high23));
    _mm_storeu_si128(to + 3, _mm_unpackhi_epi16(high01, high23));
#else
    for (int c = 0; c < QGEMM_NR; c++)
        for (int t = 0; t < 4; t++)
            dst[4 * c + t] = (int8_t)(b[t * rsb + c] ^ flip);
#endif
}

/* Four columns of 16 adjacent k, s apart: a transposition of quads. `dst` holds column 0 of the first block. */
NPK_INLINE void transpose_quads(const uint8_t *b, int64_t csb, uint8_t flip, int8_t *dst) {
    for (int c = 0; c < 4; c++)
        for (int q = 0; q < 4; q++) {
            uint32_t quad;
            memcpy(&quad, b + c * csb + 4 * q, sizeof quad);
            quad ^= flip * 0x01010101u;
            memcpy(dst + 64 * q + 4 * c, &quad, sizeof quad);
        }
}

/* k from `from` on, one byte at a time; what is missing is zero. */
static void pack_bytes(const pack_job *job, int64_t from, int cols, const uint8_t *b, int8_t *dst) {
    int64_t k4 = npk_ceil_div(job->k, 4);
    for (int64_t p4 = from / 4; p4 < k4; p4++)
        for (int c = 0; c < QGEMM_NR; c++)
            for (int t = 0; t < 4; t++) {
                int64_t p = 4 * p4 + t;
                bool inside = c < cols && p < job->k;
                dst[p4 * 64 + 4 * c + t] = inside ? (int8_t)(b[p * job->rsb + c * job->csb] ^ job->flip) : 0;
            }
}

static void sum_columns(int64_t k4, int cols, const int8_t *panel, int32_t *sums) {
    uint32_t sum[QGEMM_NR] = {0};
    for (int64_t p = 0; p < k4; p++, panel += 64)
        for (int c = 0; c < QGEMM_NR; c++)
            sum[c] += (uint32_t)(panel[4 * c] + panel[4 * c + 1] + panel[4 * c + 2] + panel[4 * c + 3]);
    memcpy(sums, sum, (size_t)cols * sizeof *sums);
}

/* Whether |b[p]| + |b[p + 1]| <= 128 for all pairs of a panel. */
static bool is_small(int64_t k4, const int8_t *panel) {
    for (int64_t p = 0; p < k4; p++, panel += 64) {
        int16_t most = 0;
        for (int i = 0; i < 64; i += 2) {
            int16_t sum = (int16_t)(abs(panel[i]) + abs(panel[i + 1]));
            most = sum > most ? sum : most;
        }
        if (most > 128)
            return false;
    }
    return true;
}

static void pack_panel(void *context, int64_t panel) {
    const pack_job *job = context;
    int64_t first = panel * QGEMM_NR, k4 = npk_ceil_div(job->k, 4), done = 0;
    int cols = (int)npk_min(QGEMM_NR, job->n - first);
    const uint8_t *b = job->b + first * job->csb;
    int8_t *dst = job->packed + panel * k4 * 64;
    if (cols == QGEMM_NR && job->csb == 1)
        for (; done + 4 <= job->k; done += 4)
            interleave(b + done * job->rsb, job->rsb, job->flip, dst + done * QGEMM_NR);
    else if (cols == QGEMM_NR && job->rsb == 1)
        for (; done + 16 <= job->k; done += 16)
            for (int c = 0; c < QGEMM_NR; c += 4)
                transpose_quads(b + done + c * job->csb, job->csb, job->flip, dst + done * QGEMM_NR + 4 * c);
    pack_bytes(job, done, cols, b, dst);
    if (job->sums)
        sum_columns(k4, cols, dst, job->sums + first);
    if (job->small)
        job->small[panel] = is_small(k4, dst);
}

int npk_qgemm_pack(int64_t n, int64_t k, const uint8_t *b, int64_t rsb, int64_t csb, int flip, int8_t *packed,
                   int32_t *sums, uint8_t *small, int threads) {
    int64_t bytes;
    if (n < 0 || k < 0 || threads < 1)
        return NPK_EINVAL;
    if (n > INT64_MAX - 64 || k > INT64_MAX - 64
        || __builtin_mul_overflow(npk_round_up(n, QGEMM_NR), npk_round_up(k, 4), &bytes))
        return NPK_EOVERFLOW;
    if (n == 0)
        return NPK_OK;
    if ((k > 0 && (!b || !packed)) || (k == 0 && !sums))
        return NPK_EINVAL;
    int64_t panels = npk_ceil_div(n, QGEMM_NR);
    if (k == 0) { /* b and packed may be NULL, which no offset may be added to */
        memset(sums, 0, (size_t)n * sizeof *sums);
        if (small)
            memset(small, 1, (size_t)panels);
        return NPK_OK;
    }
    pack_job job = {n, k, b, rsb, csb, (uint8_t)flip, packed, sums, small};
    return npk_parallel(threads, panels, pack_panel, &job);
}

/* AVX2: products of s16 pairs, 6 x 16.
 *
 * vpmaddubsw takes twice the operands per instruction, but it saturates pairs of u8 * s8 at 16 bits (255 * 127 * 2 >
 * 32767); vpmaddwd of sign-extended operands is exact. Where no pair of weights can saturate, which weights of 7 bits
 * never do, vpmaddubsw gives the same integers with an addition less in four instructions. */
#include "qgemm.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#define TARGET __attribute__((target("avx2")))
#include "convert.h"
#include "finish.h"

enum { MR = 6, SMALL = 4, DIRECT = 3, MOST_PAIR = 128 }; /* 255 * 128 < 2^15 */

TARGET NPK_INLINE __m256i pair_of(const void *a) {
    int32_t pair;
    memcpy(&pair, a, sizeof pair);
    return _mm256_set1_epi32(pair);
}

TARGET NPK_INLINE __m256i quad_of(const void *a) {
    int64_t quad;
    memcpy(&quad, a, sizeof quad);
    return _mm256_set1_epi64x(quad);
}

TARGET NPK_INLINE __m256i widen(const int8_t *b) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)b));
}

TARGET NPK_INLINE void put(int32_t *dst, __m256i v, bool accumulate) {
    __m256i *to = (__m256i *)dst;
    _mm256_storeu_si256(to, accumulate ? _mm256_add_epi32(_mm256_loadu_si256(to), v) : v);
}

/* Per block of 4 k: 16 columns of the first two k, then of the other two. Within 8 columns the order is 0 1 4 5
 * 2 3 6 7, which the tile puts right once at its end. */
TARGET static void expand(int64_t k4, const int8_t *panel, int64_t next, int16_t *dst) {
    for (int64_t p = 0; p < k4; p++, panel += 64, dst += 64) {
        _mm_prefetch((const char *)((uintptr_t)panel + (uintptr_t)next), _MM_HINT_T1); /* may lie past the end */
        for (int half = 0; half < 2; half++) {
            __m256 low = _mm256_castsi256_ps(widen(panel + 32 * half));
            __m256 high = _mm256_castsi256_ps(widen(panel + 32 * half + 16));
            _mm256_store_ps((float *)(dst + 16 * half), _mm256_shuffle_ps(low, high, 0x88));
            _mm256_store_ps((float *)(dst + 16 * half + 32), _mm256_shuffle_ps(low, high, 0xDD));
        }
    }
}

TARGET NPK_INLINE void multiply(const int rows, int64_t k4, const void *a, const int8_t *b, int32_t *acc,
                                int64_t ldacc, bool accumulate) {
    __m256i sum[MR][2];
    NPK_UNROLL
    for (int i = 0; i < rows; i++)
        sum[i][0] = sum[i][1] = _mm256_setzero_si256();
    const char *x = a;
    for (int64_t p = 0; p < 2 * k4; p++, x += 4, b += 64) {
        __m256i b0 = _mm256_load_si256((const __m256i *)b), b1 = _mm256_load_si256((const __m256i *)(b + 32));
        NPK_UNROLL
        for (int i = 0; i < rows; i++) {
            __m256i pair = pair_of(x + i * QGEMM_A_STRIDE);
            sum[i][0] = _mm256_add_epi32(sum[i][0], _mm256_madd_epi16(pair, b0));
            sum[i][1] = _mm256_add_epi32(sum[i][1], _mm256_madd_epi16(pair, b1));
        }
    }
    NPK_UNROLL
    for (int i = 0; i < rows; i++) {
        put(acc + i * ldacc, _mm256_permute4x64_epi64(sum[i][0], 0xD8), accumulate);
        put(acc + i * ldacc + 8, _mm256_permute4x64_epi64(sum[i][1], 0xD8), accumulate);
    }
}

/* Whether the positive weights of every pair, and the negative ones, sum to at most MOST_PAIR: then any u8 times them
 * stays within 16 bits. */
TARGET static bool is_small(int64_t k4, const int8_t *panel, int64_t next) {
    const __m256i zero = _mm256_setzero_si256(), ones = _mm256_set1_epi8(1), most = _mm256_set1_epi16(MOST_PAIR);
    for (int64_t p = 0; p < k4; p++, panel += 64) {
        _mm_prefetch((const char *)((uintptr_t)panel + (uintptr_t)next), _MM_HINT_T1); /* may lie past the end */
        for (int half = 0; half < 2; half++) {
            __m256i b = _mm256_loadu_si256((const __m256i *)(panel + 32 * half));
            __m256i above = _mm256_maddubs_epi16(ones, _mm256_max_epi8(b, zero));
            __m256i below = _mm256_maddubs_epi16(ones, _mm256_min_epi8(b, zero));
            __m256i large = _mm256_max_epi16(above, _mm256_sub_epi16(zero, below));
            if (_mm256_movemask_epi8(_mm256_cmpgt_epi16(large, most)))
                return false;
        }
    }
    return true;
}

/* The empty assembly keeps GCC from adding in another order, for which it has not registers enough. */
TARGET NPK_INLINE __m256i add_quads(__m256i sum, __m256i a, __m256i b) {
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
    __asm__("" : "+x"(sum));
    return sum;
}

TARGET NPK_INLINE void multiply_small(const int rows, int64_t k4, const void *a, int64_t lda, const int8_t *b,
                                      int32_t *acc, int64_t ldacc, bool accumulate) {
    __m256i sum[SMALL][2];
    NPK_UNROLL
    for (int i = 0; i < rows; i++)
        sum[i][0] = sum[i][1] = _mm256_setzero_si256();
    const char *x = a;
    for (int64_t p = 0; p < k4; p++, x += 4, b += 64) {
        __m256i b0 = _mm256_loadu_si256((const __m256i *)b), b1 = _mm256_loadu_si256((const __m256i *)(b + 32));
        NPK_UNROLL
        for (int i = 0; i < rows; i++) {
            __m256i quad = pair_of(x + i * lda);
            sum[i][0] = add_quads(sum[i][0], quad, b0);
            sum[i][1] = add_quads(sum[i][1], quad, b1);
        }
    }
    NPK_UNROLL
    for (int i = 0; i < rows; i++) {
        put(acc + i * ldacc, sum[i][0], accumulate);
        put(acc + i * ldacc + 8, sum[i][1], accumulate);
    }
}

/* Few rows: widens B in registers, four columns a vector, so that B is read once and written nowhere. */
TARGET NPK_INLINE void stream(const int rows, int64_t k4, const void *a, int64_t lda, const int8_t *b,
                              int32_t *acc, int64_t ldacc, bool accumulate) {
    __m256i sum[DIRECT][4];
    NPK_UNROLL
    for (int i = 0; i < rows; i++) {
        NPK_UNROLL
        for (int v = 0; v < 4; v++)
            sum[i][v] = _mm256_setzero_si256();
    }
    const char *x = a;
    for (int64_t p = 0; p < k4; p++, x += 8, b += 64) {
        NPK_UNROLL
        for (int v = 0; v < 4; v++) {
            __m256i four = widen(b + 16 * v);
            NPK_UNROLL
            for (int i = 0; i < rows; i++)
                sum[i][v] = _mm256_add_epi32(sum[i][v], _mm256_madd_epi16(quad_of(x + i * lda), four));
        }
    }
    NPK_UNROLL
    for (int i = 0; i < rows; i++) {
        NPK_UNROLL
        for (int h = 0; h < 2; h++) {
            __m256i pairs = _mm256_hadd_epi32(sum[i][2 * h], sum[i][2 * h + 1]);
            put(acc + i * ldacc + 8 * h, _mm256_permute4x64_epi64(pairs, 0xD8), accumulate);
        }
    }
}

#define ROWS(r)                                                                                                  \
    TARGET static void rows##r(int64_t k4, const void *a, int64_t lda, const int8_t *b, int64_t next,            \
                               int32_t *acc, int64_t ldacc, bool accumulate) {                                   \
        (void)lda;                                                                                               \
        (void)next;                                                                                              \
        multiply(r, k4, a, b, acc, ldacc, accumulate);                                                           \
    }
#define SMALLS(r)                                                                                                \
    TARGET static void small##r(int64_t k4, const void *a, int64_t lda, const int8_t *b, int64_t next,           \
                                int32_t *acc, int64_t ldacc, bool accumulate) {                                  \
        (void)next;                                                                                              \
        multiply_small(r, k4, a, lda, b, acc, ldacc, accumulate);                                                \
    }
#define STREAM(r)                                                                                                \
    TARGET static void stream##r(int64_t k4, const void *a, int64_t lda, const int8_t *b, int64_t next,          \
                                 int32_t *acc, int64_t ldacc, bool accumulate) {                                 \
        (void)next;                                                                                              \
        stream(r, k4, a, lda, b, acc, ldacc, accumulate);                                                        \
    }
ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6)
SMALLS(1) SMALLS(2) SMALLS(3) SMALLS(4)
STREAM(1) STREAM(2) STREAM(3)

static const qgemm_tile TILE[MR] = {rows1, rows2, rows3, rows4, rows5, rows6};
static const qgemm_tile SMALL_TILE[SMALL] = {small1, small2, small3, small4};
static const qgemm_tile DIRECT_TILE[DIRECT] = {stream1, stream2, stream3};
static const qgemm_ctx CTX = {MR, 1, 2, 0, 192, 512, convert, expand, TILE, NULL, is_small, SMALL, SMALL_TILE,
                              DIRECT, DIRECT_TILE, finish};

const qgemm_ctx *qgemm_ctx_avx2(void) { return npk_cpu_supports("avx2") ? &CTX : NULL; }
#else
const qgemm_ctx *qgemm_ctx_avx2(void) { return NULL; }
#endif

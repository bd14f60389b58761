/* AVX2: 4 x 16 tiles, of one kind for any operands and of another for small weights.
 *
 * Any operands: vpmaddwd on 16-bit numbers, each lane of which does the work of two products (Winograd 1968),
 *   a0 b0 + a1 b1 = (a0 + b1) (a1 + b0) - a0 a1 - b0 b1,
 * where the last two terms, summed over k, belong to a row and to a column. These are as many instructions as two
 * products and their sum, but more of them additions, for which a core has twice as many units.
 *
 * Small weights: vpmaddubsw multiplies bytes, twice as many at a time, but saturates sums of two products at 16 bits.
 * With |b0| + |b1| <= 128 it never does. Such sums are added two by two before they are widened, which takes 17 bits; so
 * 127.5 times the sum of the four weights is taken off first, as if A were centred around zero, and added at the end. */
#include "qgemm.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#define TARGET __attribute__((target("avx2")))
#include "finish.h"

enum {
    MR = 4,
    FEW = 16, /* rows up to which a panel is not worth preparing */
    FEW_SMALL = 32,
    AHEAD = 4096, /* bytes */
    HEADER = QGEMM_A_EXTRA,
    STRIDE = 512 + HEADER,
};

TARGET NPK_INLINE __m256i load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }

TARGET NPK_INLINE void store(void *p, __m256i v) { _mm256_storeu_si256((__m256i *)p, v); }

TARGET NPK_INLINE __m256i four_bytes(const void *a) {
    int32_t x;
    memcpy(&x, a, sizeof x);
    return _mm256_set1_epi32(x);
}

/* sum + x. Assembly, because GCC adds in another order, for which it has not registers enough, or moves sums about. */
TARGET NPK_INLINE __m256i plus(__m256i sum, __m256i x) {
    __asm__("vpaddd %1, %0, %0" : "+x"(sum) : "x"(x));
    return sum;
}

TARGET NPK_INLINE void put_rows(const int rows, const int halves, __m256i (*sum)[2], int32_t *acc, int64_t ldacc,
                                bool accumulate) {
    NPK_UNROLL
    for (int i = 0; i < rows; i++) {
        NPK_UNROLL
        for (int h = 0; h < halves; h++) {
            int32_t *to = acc + i * ldacc + 8 * h;
            store(to, accumulate ? _mm256_add_epi32(load(to), sum[i][h]) : sum[i][h]);
        }
    }
}

/* One or two rows leave the core room to look ahead by itself. */
TARGET NPK_INLINE void fetch_ahead(const int rows, const int8_t *panel) {
    if (rows > 1) /* may lie past the end */
        _mm_prefetch((const char *)((uintptr_t)panel + AHEAD), _MM_HINT_T0);
}

/* The even and the odd k of 8 columns of a panel, sign-extended. */
TARGET NPK_INLINE __m256i even_of(__m256i b) { return _mm256_maddubs_epi16(_mm256_set1_epi16(1), b); }

TARGET NPK_INLINE __m256i odd_of(__m256i b) { return _mm256_srai_epi16(b, 8); }

/* Sum of a row of A: vpsadbw adds eight bytes at a time. */
TARGET static uint32_t sum_bytes(int64_t k, const uint8_t *a, bool is_signed) {
    const uint8_t flip = is_signed ? 0x80 : 0;
    __m256i sums = _mm256_setzero_si256();
    int64_t p = 0;
    for (; p + 32 <= k; p += 32) {
        __m256i bytes = _mm256_xor_si256(load(a + p), _mm256_set1_epi8((char)flip));
        sums = _mm256_add_epi64(sums, _mm256_sad_epu8(bytes, _mm256_setzero_si256()));
    }
    uint64_t part[4];
    store(part, sums);
    uint32_t sum = (uint32_t)(part[0] + part[1] + part[2] + part[3]) - flip * (uint32_t)k;
    for (; p < k; p++)
        sum += a[p] ^ flip;
    return sum;
}

/* A header before a row of A says what its sums start from: `zero` times its sum less, if a panel is multiplied as it
 * is; in the tile of any operands also the sum of a0 a1 less. */
TARGET NPK_INLINE void put_header(char *row, int32_t as_is, int32_t in_tile) {
    memcpy(row, &as_is, sizeof as_is);
    memcpy(row + 4, &in_tile, sizeof in_tile);
}

TARGET NPK_INLINE uint32_t sum_of(__m256i x) {
    x = _mm256_hadd_epi32(x, x);
    x = _mm256_hadd_epi32(x, x);
    return (uint32_t)_mm256_extract_epi32(x, 0) + (uint32_t)_mm256_extract_epi32(x, 4);
}

/* 16 elements as s16, every four in the order 0 2 1 3; adds to the sums of a and of a0 a1. */
TARGET NPK_INLINE void convert_16(const uint8_t *a, bool is_signed, void *to, __m256i *sums, __m256i *products) {
    const __m256i swap = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
    __m128i bytes = _mm_loadu_si128((const __m128i *)a);
    __m256i x = is_signed ? _mm256_cvtepi8_epi16(bytes) : _mm256_cvtepu8_epi16(bytes);
    store(to, _mm256_shuffle_epi8(x, swap));
    *sums = _mm256_add_epi32(*sums, _mm256_madd_epi16(x, _mm256_set1_epi16(1)));
    *products = _mm256_add_epi32(*products, _mm256_madd_epi16(_mm256_srli_epi32(x, 16), x));
}

/* Rows of A for any weights. */
TARGET static void convert(int64_t rows, int64_t k, const uint8_t *a, int64_t lda, bool is_signed, int32_t zero,
                           void *dst, int64_t stride) {
    for (int64_t i = 0; i < rows; i++, a += lda) {
        char *row = (char *)dst + i * stride, *to = row + HEADER;
        __m256i sums = _mm256_setzero_si256(), products = sums;
        int64_t p = 0;
        for (; p + 16 <= k; p += 16)
            convert_16(a + p, is_signed, to + 2 * p, &sums, &products);
        if (p < k) {
            uint8_t rest[16] = {0};
            char converted[32];
            memcpy(rest, a + p, (size_t)(k - p));
            convert_16(rest, is_signed, converted, &sums, &products);
            memcpy(to + 2 * p, converted, (size_t)npk_round_up(k - p, 4) * 2);
        }
        uint32_t off = (uint32_t)zero * sum_of(sums);
        put_header(row, (int32_t)-off, (int32_t)(-off - sum_of(products)));
    }
}

/* Minus the sums of b0 b1 of all columns; then per 4 k the even and the odd ones of 8 columns and of 8 more. */
TARGET static void expand(int64_t k4, const int8_t *panel, void *dst) {
    __m256i *to = (__m256i *)dst + 2, terms[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int64_t p = 0; p < k4; p++, panel += 64, to += 4) {
        NPK_UNROLL
        for (int h = 0; h < 2; h++) {
            __m256i b = load(panel + 32 * h), even = even_of(b), odd = odd_of(b);
            terms[h] = _mm256_sub_epi32(terms[h], _mm256_madd_epi16(even, odd));
            store(to + 2 * h, even);
            store(to + 2 * h + 1, odd);
        }
    }
    store(dst, terms[0]);
    store((__m256i *)dst + 1, terms[1]);
}

TARGET NPK_INLINE void multiply(const int rows, const int halves, int64_t k4, const char *a, int64_t lda,
                                const int8_t *b, int32_t *acc, int64_t ldacc, bool accumulate) {
    __m256i sum[MR][2];
    (void)lda;
    NPK_UNROLL
    for (int i = 0; i < rows; i++) {
        NPK_UNROLL
        for (int h = 0; h < halves; h++)
            sum[i][h] = _mm256_add_epi32(four_bytes(a + i * STRIDE + 4), load(b + 32 * h));
    }
    a += HEADER;
    b += 64;
    for (int64_t p = 0; p < k4; p++, a += 8, b += 128) {
        __m256i even[2], odd[2];
        NPK_UNROLL
        for (int h = 0; h < halves; h++) {
            even[h] = load(b + 64 * h);
            odd[h] = load(b + 64 * h + 32);
        }
        NPK_UNROLL
        for (int i = 0; i < rows; i++) {
            __m256i a_even = four_bytes(a + i * STRIDE), a_odd = four_bytes(a + i * STRIDE + 4);
            NPK_UNROLL
            for (int h = 0; h < halves; h++) {
                __m256i x = _mm256_add_epi16(a_even, odd[h]), y = _mm256_add_epi16(a_odd, even[h]);
                sum[i][h] = plus(sum[i][h], _mm256_madd_epi16(x, y));
            }
        }
    }
    put_rows(rows, halves, sum, acc, ldacc, accumulate);
}

/* Few rows: splits B in registers, so that it is read once and written nowhere. */
TARGET NPK_INLINE void stream(const int rows, const int halves, int64_t k4, const char *a, int64_t lda, const int8_t *b, int32_t *acc,
                              int64_t ldacc, bool accumulate) {
    __m256i sum[MR][2];
    NPK_UNROLL
    for (int i = 0; i < rows; i++)
        sum[i][0] = sum[i][1] = four_bytes(a + i * lda);
    a += HEADER;
    for (int64_t p = 0; p < k4; p++, a += 8, b += 64) {
        fetch_ahead(rows, b);
        __m256i even[2], odd[2];
        NPK_UNROLL
        for (int h = 0; h < halves; h++) {
            __m256i bytes = load(b + 32 * h);
            even[h] = even_of(bytes);
            odd[h] = odd_of(bytes);
        }
        NPK_UNROLL
        for (int i = 0; i < rows; i++) {
            __m256i a_even = four_bytes(a + i * lda), a_odd = four_bytes(a + i * lda + 4);
            NPK_UNROLL
            for (int h = 0; h < halves; h++) {
                sum[i][h] = plus(sum[i][h], _mm256_madd_epi16(a_even, even[h]));
                sum[i][h] = plus(sum[i][h], _mm256_madd_epi16(a_odd, odd[h]));
            }
        }
    }
    put_rows(rows, halves, sum, acc, ldacc, accumulate);
}

TARGET NPK_INLINE __m256i add_pairs(__m256i sum, __m256i pairs) {
    return plus(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* Rows of A for small weights: as they are, k padded with zeros to a multiple of 4. */
TARGET static void convert_small(int64_t rows, int64_t k, const uint8_t *a, int64_t lda, bool is_signed, int32_t zero,
                                 void *dst, int64_t stride) {
    for (int64_t i = 0; i < rows; i++, a += lda) {
        char *row = (char *)dst + i * stride, *to = row + HEADER;
        int32_t off = zero ? (int32_t)((uint32_t)zero * -sum_bytes(k, a, is_signed)) : 0;
        put_header(row, off, off);
        memcpy(to, a, (size_t)k);
        memset(to + k, 0, (size_t)(-k & 3));
    }
}

/* Sums of all that is taken off a column; then per 8 k the panel and what is: 127.5 times the sum of four weights,
 * rounded down. */
TARGET static void centre(int64_t k4, const int8_t *panel, void *dst) {
    const __m256i ones = _mm256_set1_epi8(1), middle = _mm256_set1_epi16(127);
    __m256i *to = (__m256i *)dst + 2, terms[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int64_t p = 0; p + 2 <= k4; p += 2, panel += 128, to += 6) {
        NPK_UNROLL
        for (int h = 0; h < 2; h++) {
            __m256i first = load(panel + 32 * h), second = load(panel + 64 + 32 * h);
            __m256i sum = _mm256_add_epi16(_mm256_maddubs_epi16(ones, first), _mm256_maddubs_epi16(ones, second));
            __m256i off = _mm256_add_epi16(_mm256_mullo_epi16(sum, middle), _mm256_srai_epi16(sum, 1));
            terms[h] = add_pairs(terms[h], off);
            store(to + h, first);
            store(to + 2 + h, second);
            store(to + 4 + h, off);
        }
    }
    if (k4 % 2)
        memcpy(to, panel, 64);
    store(dst, terms[0]);
    store((__m256i *)dst + 1, terms[1]);
}

TARGET NPK_INLINE void multiply_quads(const int rows, const int halves, __m256i (*sum)[2], const char *a, int64_t lda,
                                      const int8_t *b) {
    NPK_UNROLL
    for (int i = 0; i < rows; i++) {
        __m256i quad = four_bytes(a + i * lda);
        NPK_UNROLL
        for (int h = 0; h < halves; h++)
            sum[i][h] = add_pairs(sum[i][h], _mm256_maddubs_epi16(quad, load(b + 32 * h)));
    }
}

TARGET NPK_INLINE void stream_small(const int rows, const int halves, int64_t k4, const char *a, int64_t lda, const int8_t *b,
                                    int32_t *acc, int64_t ldacc, bool accumulate) {
    __m256i sum[MR][2];
    NPK_UNROLL
    for (int i = 0; i < rows; i++)
        sum[i][0] = sum[i][1] = four_bytes(a + i * lda);
    a += HEADER;
    for (int64_t p = 0; p < k4; p++, a += 4, b += 64) {
        fetch_ahead(rows, b);
        multiply_quads(rows, halves, sum, a, lda, b);
    }
    put_rows(rows, halves, sum, acc, ldacc, accumulate);
}

TARGET NPK_INLINE void multiply_small(const int rows, const int halves, int64_t k4, const char *a, int64_t lda,
                                      const int8_t *b, int32_t *acc, int64_t ldacc, bool accumulate) {
    __m256i sum[MR][2];
    (void)lda;
    NPK_UNROLL
    for (int i = 0; i < rows; i++) {
        NPK_UNROLL
        for (int h = 0; h < halves; h++)
            sum[i][h] = _mm256_add_epi32(four_bytes(a + i * STRIDE), load(b + 32 * h));
    }
    a += HEADER;
    b += 64;
    for (int64_t p = 0; p + 2 <= k4; p += 2, a += 8, b += 192) {
        NPK_UNROLL
        for (int i = 0; i < rows; i++) {
            __m256i x = four_bytes(a + i * STRIDE), y = four_bytes(a + i * STRIDE + 4);
            NPK_UNROLL
            for (int h = 0; h < halves; h++) {
                __m256i first = _mm256_maddubs_epi16(x, load(b + 32 * h));
                __m256i second = _mm256_maddubs_epi16(y, load(b + 64 + 32 * h));
                first = _mm256_sub_epi16(first, load(b + 128 + 32 * h));
                sum[i][h] = add_pairs(sum[i][h], _mm256_add_epi16(first, second));
            }
        }
    }
    if (k4 % 2)
        multiply_quads(rows, halves, sum, a, STRIDE, b);
    put_rows(rows, halves, sum, acc, ldacc, accumulate);
}

/* Up to MR rows of one kind of tile, of as many halves of a panel. */
#define ROWS(name, r, halves)                                                                                    \
    TARGET static void name##r##x##halves(int64_t k4, const void *a, int64_t lda, const int8_t *b, int64_t next, \
                                          int32_t *acc, int64_t ldacc, bool accumulate) {                        \
        (void)next;                                                                                              \
        name(r, halves, k4, a, lda, b, acc, ldacc, accumulate);                                                  \
    }
#define TILES(name, halves)                                                                                      \
    ROWS(name, 1, halves)                                                                                        \
    ROWS(name, 2, halves)                                                                                        \
    ROWS(name, 3, halves)                                                                                        \
    ROWS(name, 4, halves)                                                                                        \
    static const qgemm_tile name##_x##halves[MR] = {name##1x##halves, name##2x##halves, name##3x##halves,        \
                                                    name##4x##halves};
TILES(multiply, 1) TILES(multiply, 2)
TILES(multiply_small, 1) TILES(multiply_small, 2)
TILES(stream, 2)
TILES(stream_small, 2)

static const qgemm_way SMALL = {
    .a_size = 1, .kc = 512, .stride = STRIDE, .convert = convert_small, .expand = centre,
    .mr = MR, .tile = multiply_small_x2, .narrow = multiply_small_x1,
    .few = FEW_SMALL, .direct_mr = MR, .direct = stream_small_x2,
};
static const qgemm_ctx CTX = {
    .any = {.a_size = 2, .kc = 256, .stride = STRIDE, .convert = convert, .expand = expand,
            .mr = MR, .tile = multiply_x2, .narrow = multiply_x1, .few = FEW, .direct_mr = MR, .direct = stream_x2},
    .small = &SMALL, .panels = 1, .narrow = QGEMM_NR / 2, .takes_zero = true, .mc = 192, .nc = 512,
    .sum_row = sum_bytes, .finish = finish,
};

const qgemm_ctx *qgemm_ctx_avx2(void) { return npk_cpu_supports("avx2") ? &CTX : NULL; }
#else
const qgemm_ctx *qgemm_ctx_avx2(void) { return NULL; }
#endif

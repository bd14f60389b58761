/* The entry points: checks of the arguments, and the loops over rows. */
#include "formats.h"

#include "../common/threads.h"

enum { CHUNK = 1 << 15 }; /* elements of a task: long against the cost of handing one out, short against L2 */

int codec_bits(int format) {
#define BITS(name, exponent_bits, mantissa_bits, ...) 1 + exponent_bits + mantissa_bits,
    static const int bits[NPK_FMT_COUNT] = {NPK_FORMAT_TABLE(BITS)};
    return bits[format];
}

static int code_bytes(int format) { return codec_bits(format) > 8 ? 2 : 1; }

const codec_ctx *codec_ctx_of(int isa) {
    switch (isa) {
    case NPK_GENERIC: return codec_ctx_generic();
    case NPK_AVX2: return codec_ctx_avx2();
    case NPK_AVX512: return codec_ctx_avx512();
    default: return NULL;
    }
}

static int check_cast(int isa, int format, int64_t n, const void *x, const void *codes) {
    int64_t bytes;
    if (isa < NPK_GENERIC || isa > NPK_AVX512 || format < 0 || format >= NPK_FMT_COUNT || n < 0)
        return NPK_EINVAL;
    if (__builtin_mul_overflow(n, (int64_t)sizeof(float), &bytes))
        return NPK_EOVERFLOW;
    if (!codec_ctx_of(isa))
        return NPK_EUNSUPPORTED;
    return n > 0 && (!x || !codes) ? NPK_EINVAL : NPK_OK;
}

typedef struct {
    const codec_ctx *ctx;
    int format, code_bytes;
    bool saturate;
    int64_t n;
    const float *x;
    uint8_t *codes;
} encode_job;

static void encode_task(void *context, int64_t task) {
    const encode_job *j = context;
    int64_t at = task * CHUNK;
    j->ctx->encode[j->format](npk_min(CHUNK, j->n - at), j->x + at, j->codes + j->code_bytes * at, j->saturate);
}

int npk_encode(int isa, int format, int saturate, int64_t n, const float *x, uint8_t *codes, int threads) {
    int status = check_cast(isa, format, n, x, codes);
    if (status != NPK_OK || n == 0)
        return status;
    encode_job job = {codec_ctx_of(isa), format, code_bytes(format), saturate != 0, n, x, codes};
    return npk_parallel(threads, npk_ceil_div(n, CHUNK), encode_task, &job);
}

typedef struct {
    const codec_ctx *ctx;
    int format, code_bytes;
    int64_t n;
    const uint8_t *codes;
    float *x;
} decode_job;

static void decode_task(void *context, int64_t task) {
    const decode_job *j = context;
    int64_t at = task * CHUNK;
    j->ctx->decode[j->format](npk_min(CHUNK, j->n - at), j->codes + j->code_bytes * at, j->x + at);
}

int npk_decode(int isa, int format, int64_t n, const uint8_t *codes, float *x, int threads) {
    int status = check_cast(isa, format, n, x, codes);
    if (status != NPK_OK || n == 0)
        return status;
    decode_job job = {codec_ctx_of(isa), format, code_bytes(format), n, codes, x};
    return npk_parallel(threads, npk_ceil_div(n, CHUNK), decode_task, &job);
}

/* The last index of a scale is a sum of three products of non-negative factors; all must fit. */
static bool scale_index_fits(int64_t blocks, int64_t rows, int64_t cols, int64_t sb, int64_t sr, int64_t sc) {
    int64_t b, r, c, sum, bytes;
    return !__builtin_mul_overflow(blocks, sb, &b) && !__builtin_mul_overflow(rows, sr, &r)
           && !__builtin_mul_overflow(cols, sc, &c) && !__builtin_add_overflow(b, r, &sum)
           && !__builtin_add_overflow(sum, c, &sum) && !__builtin_mul_overflow(sum, (int64_t)4, &bytes);
}

static int check_scaled(int isa, int64_t blocks, int64_t len, int64_t cols, const void *x, const void *scale,
                        const void *zero, int64_t sb, int64_t sr, int64_t sc, const void *codes) {
    int64_t n, bytes;
    if (isa < NPK_GENERIC || isa > NPK_AVX512 || blocks < 0 || len < 0 || cols < 1 || sb < 0 || sr < 0 || sc < 0
        || sc > 1)
        return NPK_EINVAL;
    if (__builtin_mul_overflow(blocks, len, &n) || __builtin_mul_overflow(n, (int64_t)sizeof(float), &bytes)
        || !scale_index_fits(blocks, npk_ceil_div(len, cols), cols, sb, sr, sc))
        return NPK_EOVERFLOW;
    if (!codec_ctx_of(isa))
        return NPK_EUNSUPPORTED;
    return n > 0 && (!x || !codes || !scale || !zero) ? NPK_EINVAL : NPK_OK;
}

/* Both directions of integer quantisation. */
typedef struct {
    const codec_ctx *ctx;
    int64_t len, cols, rows, rows_per_task, all_rows;
    const float *scale;
    const int32_t *zero;
    int64_t sb, sr, sc;
    const float *real; /* quantize */
    uint8_t *codes_out;
    int low, high;
    const uint8_t *codes; /* dequantize */
    float *real_out;
    bool is_signed;
} scaled_job;

static void scaled_task(void *context, int64_t task) {
    const scaled_job *j = context;
    int64_t first = task * j->rows_per_task, last = npk_min(first + j->rows_per_task, j->all_rows);
    for (int64_t i = first; i < last; i++) {
        int64_t b = i / j->rows, r = i % j->rows, s = b * j->sb + r * j->sr, from = b * j->len + r * j->cols;
        npk_scaled_row row = {npk_min(j->cols, j->len - r * j->cols), j->scale + s, j->zero + s, j->sc};
        if (j->real)
            j->ctx->quantize(row, j->real + from, j->low, j->high, j->codes_out + from);
        else
            j->ctx->dequantize(row, j->codes + from, j->is_signed, j->real_out + from);
    }
}

static int run_scaled(scaled_job *job, int64_t blocks, int threads) {
    if (blocks == 0 || job->len == 0)
        return NPK_OK;
    job->cols = npk_min(job->cols, job->len);
    job->rows = npk_ceil_div(job->len, job->cols);
    job->all_rows = blocks * job->rows;
    job->rows_per_task = npk_ceil_div(CHUNK, job->cols);
    return npk_parallel(threads, npk_ceil_div(job->all_rows, job->rows_per_task), scaled_task, job);
}

int npk_quantize_int(int isa, int64_t blocks, int64_t len, int64_t cols, const float *x, const float *scale,
                     const int32_t *zero, int64_t sb, int64_t sr, int64_t sc, int low, int high, uint8_t *codes,
                     int threads) {
    int status = check_scaled(isa, blocks, len, cols, x, scale, zero, sb, sr, sc, codes);
    if (status == NPK_OK && (low < -128 || high > 255 || low >= high || high - low > 255))
        status = NPK_EINVAL;
    scaled_job job = {.ctx = codec_ctx_of(isa), .len = len, .cols = cols, .scale = scale, .zero = zero, .sb = sb, .sr = sr,
                      .sc = sc, .real = x, .codes_out = codes, .low = low, .high = high};
    return status == NPK_OK ? run_scaled(&job, blocks, threads) : status;
}

int npk_dequantize_int(int isa, int64_t blocks, int64_t len, int64_t cols, const uint8_t *codes, const float *scale,
                       const int32_t *zero, int64_t sb, int64_t sr, int64_t sc, int is_signed, float *x, int threads) {
    int status = check_scaled(isa, blocks, len, cols, x, scale, zero, sb, sr, sc, codes);
    scaled_job job = {.ctx = codec_ctx_of(isa), .len = len, .cols = cols, .scale = scale, .zero = zero, .sb = sb, .sr = sr,
                      .sc = sc, .codes = codes, .real_out = x, .is_signed = is_signed != 0};
    return status == NPK_OK ? run_scaled(&job, blocks, threads) : status;
}

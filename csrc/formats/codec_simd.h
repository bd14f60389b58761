/* The casts, once for all instruction sets, on vectors V of LANES 32-bit lanes.
 *
 * The including file defines TARGET, V, M (a mask of lanes) and, on lanes read as integers, v_set1,
 * v_load, v_store, v_add, v_sub, v_and, v_or, v_xor, v_shl, v_shr (logical), v_gt (signed, gives M),
 * v_pick(m, a, b) = m ? a : b; on lanes read as floats v_addf, v_subf, v_mulf, v_divf, v_minf, v_maxf;
 * v_load8, v_load16 (zero extension of LANES codes), and v_store8, v_store16 of STEP = 4 LANES codes,
 * which take an array of 4 vectors.
 *
 * A float of exponent field f and mantissa t has the bits f 2^23 + t, so a magnitude code of m mantissa
 * bits is those bits shifted by 23 - m, less the difference of the biases; a carry out of the mantissa
 * moves into the exponent by itself. Below the smallest normal number the adder rounds: |x| + 2^(23 + emin - m)
 * has exactly the step of the subnormals as its last bit. */
#include <string.h>

enum { STEP = 4 * LANES };

#define F32_INF 0x7F800000
#define F32_NAN 0x7FC00000

TARGET NPK_INLINE V encode_lanes(const npk_float_format f, V x, V overflow) {
    const int shift = 23 - f.mantissa_bits, rebias = (127 - f.bias) << 23, bits = 1 + f.exponent_bits + f.mantissa_bits;
    V a = v_and(x, v_set1(0x7FFFFFFF));
    V odd = v_and(v_shr(a, shift), v_set1(1));
    V code = v_shr(v_add(v_add(a, odd), v_set1((1 << (shift - 1)) - 1 - rebias)), shift);
    if (f.bias != 127) { /* bf16 shares the subnormals of fp32, and the shift serves them */
        const int emin = 1 - f.bias;
        V magic = v_set1((127 + 23 + emin - f.mantissa_bits) << 23);
        code = v_pick(v_gt(v_set1((127 + emin) << 23), a), v_sub(v_addf(a, magic), magic), code);
    }
    code = v_pick(v_gt(code, v_set1(f.max_code)), overflow, code);
    V sign = v_and(v_shr(x, 32 - bits), v_set1(1 << (bits - 1)));
    M nan = v_gt(a, v_set1(F32_INF));
    if (f.nan_code < 0)
        return v_pick(nan, v_set1(0), v_or(code, sign));
    return v_or(v_pick(nan, v_set1(f.nan_code), code), sign);
}

TARGET NPK_INLINE V decode_lanes(const npk_float_format f, V code) {
    const int shift = 23 - f.mantissa_bits, bits = 1 + f.exponent_bits + f.mantissa_bits;
    V mag = v_and(code, v_set1((1 << (bits - 1)) - 1));
    V sign = v_shl(v_and(code, v_set1(1 << (bits - 1))), 32 - bits);
    V x = v_shl(mag, shift);
    if (f.bias != 127) { /* a subnormal is (2^emin + its value) - 2^emin: no fp32 subnormal, which some CPUs trap */
        V smallest = v_set1((128 - f.bias) << 23);
        V subnormal = v_subf(v_or(x, smallest), smallest);
        x = v_pick(v_gt(v_set1(1 << f.mantissa_bits), mag), subnormal, v_add(x, v_set1((127 - f.bias) << 23)));
    }
    if (f.inf_code >= 0)
        x = v_pick(v_gt(mag, v_set1(f.max_code)), v_set1(F32_INF), x);
    if (f.nan_code >= 0)
        x = v_pick(v_gt(mag, v_set1(f.inf_code >= 0 ? f.inf_code : f.max_code)), v_set1(F32_NAN), x);
    return v_or(x, sign);
}

TARGET NPK_INLINE void encode_step(const npk_float_format f, const float *x, V overflow, uint8_t *codes) {
    V v[4];
    NPK_UNROLL
    for (int i = 0; i < 4; i++)
        v[i] = encode_lanes(f, v_load(x + i * LANES), overflow);
    if (f.exponent_bits + f.mantissa_bits == 15)
        v_store16(codes, v);
    else
        v_store8(codes, v);
}

TARGET NPK_INLINE void decode_step(const npk_float_format f, const uint8_t *codes, float *x) {
    NPK_UNROLL
    for (int i = 0; i < 4; i++) {
        bool wide = f.exponent_bits + f.mantissa_bits == 15;
        V code = wide ? v_load16(codes + 2 * i * LANES) : v_load8(codes + i * LANES);
        v_store(x + i * LANES, decode_lanes(f, code));
    }
}

/* The last n % STEP elements pass through buffers, so that nothing beyond the arrays is touched. */
TARGET NPK_INLINE void encode_all(const npk_float_format f, int64_t n, const float *x, uint8_t *codes, bool saturate) {
    const int size = f.exponent_bits + f.mantissa_bits == 15 ? 2 : 1;
    int beyond = f.inf_code >= 0 ? f.inf_code : f.nan_code >= 0 ? f.nan_code : f.max_code;
    V overflow = v_set1(saturate ? f.max_code : beyond);
    int64_t i = 0;
    for (; i + STEP <= n; i += STEP)
        encode_step(f, x + i, overflow, codes + size * i);
    if (i < n) {
        float in[STEP] = {0};
        uint8_t out[2 * STEP];
        memcpy(in, x + i, (size_t)(n - i) * sizeof(float));
        encode_step(f, in, overflow, out);
        memcpy(codes + size * i, out, (size_t)(size * (n - i)));
    }
}

TARGET NPK_INLINE void decode_all(const npk_float_format f, int64_t n, const uint8_t *codes, float *x) {
    const int size = f.exponent_bits + f.mantissa_bits == 15 ? 2 : 1;
    int64_t i = 0;
    for (; i + STEP <= n; i += STEP)
        decode_step(f, codes + size * i, x + i);
    if (i < n) {
        uint8_t in[2 * STEP] = {0};
        float out[STEP];
        memcpy(in, codes + size * i, (size_t)(size * (n - i)));
        decode_step(f, in, out);
        memcpy(x + i, out, (size_t)(n - i) * sizeof(float));
    }
}

#define CASTS(name, ...)                                                                            \
    TARGET static void encode_##name(int64_t n, const float *x, uint8_t *codes, bool saturate) {    \
        encode_all((npk_float_format){__VA_ARGS__}, n, x, codes, saturate);                         \
    }                                                                                               \
    TARGET static void decode_##name(int64_t n, const uint8_t *codes, float *x) {                   \
        decode_all((npk_float_format){__VA_ARGS__}, n, codes, x);                                   \
    }
NPK_FORMAT_TABLE(CASTS)

#define F32_1_5_2P23 0x4B400000 /* 1.5 2^23: its neighbours are integers, so adding it rounds to one */

/* Adding 1.5 2^23 rounds what is within the bounds, and the low bits of the sum are the integer. The bounds are
 * integers, so it does not matter that clamping comes first. */
TARGET NPK_INLINE V quantize_lanes(V x, V scale, V zero, V low, V high) {
    V magic = v_set1(F32_1_5_2P23);
    V y = v_divf(x, scale);
    y = v_pick(v_gt(v_and(y, v_set1(0x7FFFFFFF)), v_set1(F32_INF)), v_set1(0), y);
    V least = v_subf(v_add(magic, v_sub(low, zero)), magic), most = v_subf(v_add(magic, v_sub(high, zero)), magic);
    y = v_maxf(v_minf(y, most), least);
    return v_and(v_add(v_sub(v_addf(y, magic), magic), zero), v_set1(0xFF));
}

TARGET NPK_INLINE V dequantize_lanes(V code, V scale, V zero, V flip) {
    V magic = v_set1(F32_1_5_2P23);
    V steps = v_sub(v_sub(v_xor(code, flip), flip), zero); /* the exclusive or extends the sign */
    return v_mulf(v_subf(v_add(magic, steps), magic), scale);
}

TARGET NPK_INLINE V of_step(const void *first, int64_t step, int i) {
    const char *p = first;
    int32_t one;
    if (step)
        return v_load(p + (size_t)i * LANES * 4);
    memcpy(&one, p, sizeof one);
    return v_set1(one);
}

TARGET NPK_INLINE void quantize_step(const npk_scaled_row r, int64_t at, const float *x, V low, V high, uint8_t *codes) {
    V v[4];
    NPK_UNROLL
    for (int i = 0; i < 4; i++) {
        V scale = of_step(r.scale + at * r.step, r.step, i), zero = of_step(r.zero + at * r.step, r.step, i);
        v[i] = quantize_lanes(v_load(x + i * LANES), scale, zero, low, high);
    }
    v_store8(codes, v);
}

TARGET NPK_INLINE void dequantize_step(const npk_scaled_row r, int64_t at, const uint8_t *codes, V flip, float *x) {
    NPK_UNROLL
    for (int i = 0; i < 4; i++) {
        V scale = of_step(r.scale + at * r.step, r.step, i), zero = of_step(r.zero + at * r.step, r.step, i);
        v_store(x + i * LANES, dequantize_lanes(v_load8(codes + i * LANES), scale, zero, flip));
    }
}

/* The rest of a row that starts at `at`, its scales copied into buffers of a whole step. */
typedef struct {
    float scale[STEP];
    int32_t zero[STEP];
} padded_scales;

NPK_INLINE npk_scaled_row rest_of(npk_scaled_row row, int64_t at, padded_scales *p) {
    for (int64_t i = 0; i < STEP; i++) {
        int64_t from = row.step * npk_min(at + i, row.n - 1);
        p->scale[i] = row.scale[from];
        p->zero[i] = row.zero[from];
    }
    return (npk_scaled_row){row.n - at, p->scale, p->zero, 1};
}

TARGET static void quantize(npk_scaled_row row, const float *x, int low, int high, uint8_t *codes) {
    V least = v_set1(low), most = v_set1(high);
    int64_t i = 0;
    if (row.step)
        for (; i + STEP <= row.n; i += STEP)
            quantize_step(row, i, x + i, least, most, codes + i);
    else
        for (; i + STEP <= row.n; i += STEP)
            quantize_step((npk_scaled_row){row.n, row.scale, row.zero, 0}, i, x + i, least, most, codes + i);
    if (i < row.n) {
        padded_scales padded;
        float in[STEP] = {0};
        uint8_t out[STEP];
        npk_scaled_row rest = rest_of(row, i, &padded);
        memcpy(in, x + i, (size_t)rest.n * sizeof(float));
        quantize_step(rest, 0, in, least, most, out);
        memcpy(codes + i, out, (size_t)rest.n);
    }
}

TARGET static void dequantize(npk_scaled_row row, const uint8_t *codes, bool is_signed, float *x) {
    V flip = v_set1(is_signed ? 0x80 : 0);
    int64_t i = 0;
    if (row.step)
        for (; i + STEP <= row.n; i += STEP)
            dequantize_step(row, i, codes + i, flip, x + i);
    else
        for (; i + STEP <= row.n; i += STEP)
            dequantize_step((npk_scaled_row){row.n, row.scale, row.zero, 0}, i, codes + i, flip, x + i);
    if (i < row.n) {
        padded_scales padded;
        uint8_t in[STEP] = {0};
        float out[STEP];
        npk_scaled_row rest = rest_of(row, i, &padded);
        memcpy(in, codes + i, (size_t)rest.n);
        dequantize_step(rest, 0, in, flip, out);
        memcpy(x + i, out, (size_t)rest.n * sizeof(float));
    }
}

#define ENCODE_OF(name, ...) encode_##name,
#define DECODE_OF(name, ...) decode_##name,
static const codec_ctx CTX = {{NPK_FORMAT_TABLE(ENCODE_OF)}, {NPK_FORMAT_TABLE(DECODE_OF)}, quantize, dequantize};

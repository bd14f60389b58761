/* Elementary functions on vectors of binary32, once for all instruction sets.
 *
 * Included by vmath_generic.h, vmath_avx2.h or vmath_avx512.h, which define: TARGET, LANES, the types V and M
 * (mask), and v_set1, v_load, v_store, v_load_part(x, count, fill), v_store_part(x, v, count) for 0 < count <
 * LANES (no byte beyond is touched), v_stream (a store past the caches, 16-byte aligned) and
 * v_fence (which orders it), v_add, v_sub, v_mul, v_div, v_fma(a, b, c) = a b + c, v_fnma(a, b, c) = c - a b, v_min and v_max (the second operand when either is
 * NaN), v_less, v_above (greater or unordered), v_none (no lane of a mask), v_select(m, a, b) = m ? a : b, v_and,
 * v_or, v_bits (an integer as a float), v_ldexp(x, n) = x 2^n rounded once for |n| <= 250, v_scale(x, n + V_MAGIC) =
 * x 2^n for normal results, and loads and stores of 16-bit formats.
 *
 * Errors in units in the last place (ULP), limits that tests/unit/kernels/test_vmath.py holds them to against
 * float64, on samples by default and on all 2^32 arguments with NPUSIM_SOAK (subnormal results: units of 2^-149):
 *
 *   v_exp 1.1   v_tanh 2   v_sigmoid 2.5   v_silu 3   v_gelu 6
 *
 * v_gelu_tanh: 4 + 3 |y| with y the argument of its exponential. All propagate NaN and take infinities to
 * their limits. Polynomials and the rational function were fitted here by Lawson's iteration (weighted least
 * squares tending to the minimax fit: Rice and Usow, Math. Comp. 22, 1968). */

/* log2(e); ln 2 as a number of 9 bits, so that its multiples are exact, and the rest (Cody and Waite 1980). */
#define V_LOG2E 1.44269504f
#define V_LN2_HIGH 0.693359375f
#define V_LN2_LOW -2.12194440e-4f

/* 1.5 x 2^23: a number of small magnitude that is added to it loses its fraction, to nearest even, and its integral
 * part stands in the lowest bits. */
#define V_MAGIC 12582912.0f

/* m 2^n; n is kept as t = n + V_MAGIC. */
typedef struct {
    V m, t;
} v_scaled;

/* exp(r) for |r| <= 0.36: 1 + r + r^2 p(r), relative error of p's fit 2^-28. */
TARGET NPK_INLINE V v_exp_near_zero(V r) {
    V p = v_fma(v_set1(1.38088479e-3f), r, v_set1(8.37149564e-3f));
    p = v_fma(p, r, v_set1(4.16686684e-2f));
    p = v_fma(p, r, v_set1(1.66664973e-1f));
    p = v_fma(p, r, v_set1(4.99999911e-1f));
    return v_add(v_fma(p, v_mul(r, r), r), v_set1(1.0f));
}

/* exp(high + low) for a low far below high, unscaled; |high| <= 160. */
TARGET NPK_INLINE v_scaled v_exp_parts(V high, V low) {
    V t = v_fma(v_add(high, low), v_set1(V_LOG2E), v_set1(V_MAGIC)), n = v_sub(t, v_set1(V_MAGIC));
    V r = v_fnma(n, v_set1(V_LN2_LOW), v_add(v_fnma(n, v_set1(V_LN2_HIGH), high), low));
    return (v_scaled){v_exp_near_zero(r), t};
}

/* The same for low = 0. */
TARGET NPK_INLINE v_scaled v_exp_parts_of(V x) {
    V t = v_fma(x, v_set1(V_LOG2E), v_set1(V_MAGIC)), n = v_sub(t, v_set1(V_MAGIC));
    V r = v_fnma(n, v_set1(V_LN2_LOW), v_fnma(n, v_set1(V_LN2_HIGH), x));
    return (v_scaled){v_exp_near_zero(r), t};
}

/* Whether every lane is at most `limit` in magnitude. Then 2^n is a normal number and one operation scales by it;
 * elsewhere two do, with the same bits where both are right. */
TARGET NPK_INLINE bool v_within(V magnitude, float limit) { return v_none(v_above(magnitude, v_set1(limit))); }

/* exp(x): 0 from -103.97, infinite from 88.73. */
TARGET NPK_INLINE V v_exp(V x) {
    if (v_within(v_and(x, v_bits(0x7FFFFFFFu)), 87.0f)) {
        v_scaled e = v_exp_parts_of(x);
        return v_scale(e.m, e.t);
    }
    v_scaled e = v_exp_parts_of(v_max(v_set1(-104.0f), v_min(v_set1(89.0f), x)));
    return v_ldexp(e.m, v_sub(e.t, v_set1(V_MAGIC)));
}

TARGET NPK_INLINE V v_abs(V x) { return v_and(x, v_bits(0x7FFFFFFFu)); }
TARGET NPK_INLINE V v_negative_abs(V x) { return v_or(x, v_bits(0x80000000u)); }

/* x + x^3 p(x^2) below 0.6, else 1 - 2 / (exp(2 |x|) + 1). */
TARGET NPK_INLINE V v_tanh(V x) {
    V size = v_abs(x), square = v_mul(size, size);
    V p = v_fma(v_set1(-5.70490956e-3f), square, v_set1(2.06390209e-2f));
    p = v_fma(p, square, v_set1(-5.37396967e-2f));
    p = v_fma(p, square, v_set1(1.33314416e-1f));
    p = v_fma(p, square, v_set1(-3.33332807e-1f));
    V small = v_fma(v_mul(p, square), size, size);
    V e = v_exp(v_min(v_set1(20.0f), v_add(size, size)));
    V large = v_sub(v_set1(1.0f), v_div(v_set1(2.0f), v_add(e, v_set1(1.0f))));
    V magnitude = v_select(v_less(size, v_set1(0.6f)), small, large);
    return v_or(magnitude, v_and(x, v_bits(0x80000000u)));
}

/* x / (1 + exp(-y)) for |y| < 87. */
TARGET NPK_INLINE V v_gated_near(V x, V y) {
    v_scaled e = v_exp_parts_of(v_sub(v_set1(0.0f), y));
    return v_div(x, v_add(v_set1(1.0f), v_scale(e.m, e.t)));
}

/* The same for x of the sign of y, or constant. With e = exp(-|y|) that is x e / (1 + e) for negative y; e's power
 * of two is multiplied in last, so that only the result can become subnormal. */
TARGET NPK_INLINE V v_gated_far(V x, V y) {
    M negative = v_less(y, v_set1(0.0f));
    v_scaled e = v_exp_parts_of(v_max(v_set1(-160.0f), v_negative_abs(y)));
    V n = v_sub(e.t, v_set1(V_MAGIC)), below = v_add(v_set1(1.0f), v_ldexp(e.m, n));
    V quotient = v_div(v_select(negative, v_mul(x, e.m), x), below);
    return v_select(negative, v_ldexp(quotient, n), quotient);
}

/* Which of the two is taken depends on the element alone, not on its neighbours. */
TARGET NPK_INLINE V v_gated(V x, V y) {
    V size = v_abs(y), near = v_gated_near(x, y);
    if (v_within(size, 80.0f))
        return near;
    return v_select(v_above(size, v_set1(80.0f)), v_gated_far(x, y), near);
}

TARGET NPK_INLINE V v_sigmoid(V x) { return v_gated(v_set1(1.0f), x); }

/* x sigmoid(x); -0 at -infinity. */
TARGET NPK_INLINE V v_silu(V x) {
    V bounded = v_max(v_set1(-160.0f), x);
    return v_gated(bounded, bounded);
}

/* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) = x sigmoid(y), y = 2 sqrt(2/pi) (x + 0.044715 x^3):
 * without the cancellation of 1 + tanh. */
TARGET NPK_INLINE V v_gelu_tanh(V x) {
    V bounded = v_max(v_set1(-12.0f), x);
    V y = v_mul(bounded, v_fma(v_mul(bounded, bounded), v_set1(0.0713548163f), v_set1(1.59576912f)));
    return v_gated(bounded, y);
}

/* x Phi(x) = x erfc(-x / sqrt(2)) / 2. For a = |x|: Phi(-a) = exp(-a^2 / 2) R(a), R rational, fit 2^-27; a^2 is
 * taken as the exact square of a's upper 12 bits and a rest, since an error of the exponent would be the
 * relative error of the result. */
TARGET NPK_INLINE V v_gelu(V x) {
    V bounded = v_max(v_set1(-14.6f), x), a = v_min(v_set1(14.6f), v_abs(bounded));
    V upper = v_and(a, v_bits(0xFFFFF000u)), half = v_set1(-0.5f);
    V high = v_mul(v_mul(upper, upper), half), low = v_mul(v_mul(v_sub(a, upper), v_add(a, upper)), half);
    v_scaled e = v_exp_parts(high, low);
    V p = v_fma(v_set1(4.15321997e-3f), a, v_set1(4.08811087e-2f));
    p = v_fma(p, a, v_set1(1.83969149e-1f));
    p = v_fma(p, a, v_set1(4.39283549e-1f));
    p = v_fma(p, a, v_set1(0.5f));
    V q = v_fma(v_set1(1.0410467e-2f), a, v_set1(1.02479859e-1f));
    q = v_fma(q, a, v_set1(4.71408705e-1f));
    q = v_fma(q, a, v_set1(1.20554849f));
    q = v_fma(q, a, v_set1(1.67645211f));
    q = v_fma(q, a, v_set1(1.0f));
    V tail = v_div(v_mul(e.m, p), q), one = v_set1(1.0f);
    M negative = v_less(x, v_set1(0.0f));
    if (v_within(a, 12.5f)) {
        V lower = v_scale(tail, e.t);
        return v_mul(bounded, v_select(negative, lower, v_sub(one, lower)));
    }
    V n = v_sub(e.t, v_set1(V_MAGIC));
    return v_select(negative, v_ldexp(v_mul(bounded, tail), n), v_mul(bounded, v_sub(one, v_ldexp(tail, n))));
}

/* Sum and maximum of the lanes, halves first: a tree whose shape depends on LANES only. */
TARGET NPK_INLINE float v_hsum(V v) {
    float lane[LANES];
    v_store(lane, v);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            lane[i] += lane[i + width];
    return lane[0];
}

TARGET NPK_INLINE float v_hmax(V v) {
    float lane[LANES];
    v_store(lane, v);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            lane[i] = lane[i] > lane[i + width] ? lane[i] : lane[i + width];
    return lane[0];
}

/* Elementary functions on vectors of binary32, once for all instruction sets.
 *
 * Included by vmath_generic.h, vmath_avx2.h or vmath_avx512.h, which define: TARGET, LANES, the types V and M
 * (mask), and v_set1, v_load, v_store, v_load_part(x, count, fill), v_store_part(x, v, count) for 0 < count <
 * LANES (no byte beyond is touched), v_stream (a store past the caches, 16-byte aligned) and
 * v_fence (which orders it), v_add, v_sub, v_mul, v_div, v_fma(a, b, c) = a b + c, v_fnma(a, b, c) = c - a b, v_min
 * and v_max (the second operand when either is NaN), v_less, v_above (greater or unordered), v_none (no lane of a mask), v_select(m, a, b) = m ? a : b, v_and,
 * v_or, v_bits (an integer as a float), v_largest_of (of magnitudes; NaN counts as the largest), v_product_error(a, b,
 * p) = a b - p for the rounded product p, v_ldexp(x, n) = x 2^n rounded once for |n| <= 250, v_scale(x, n + V_MAGIC) =
 * x 2^n for normal results, and loads and stores of 16-bit formats.
 *
 * Errors in units in the last place (ULP), limits that tests/unit/kernels/test_vmath.py holds them to against
 * float64, on samples by default and on all 2^32 arguments with NPUSIM_SOAK (subnormal results: units of 2^-149):
 *
 *   v_exp 1.1   v_tanh 2   v_sigmoid 2.5   v_silu 3   v_gelu 7
 *
 * v_exp_brief: a relative error of 3.2 x 2^-24, of the 4 x 2^-24 that softmax's bound grants.
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

/* What the first half of a function of x hands to the second: r and t = n + V_MAGIC with n ln 2 + r the argument of an
 * exponential, and q, which some functions need beside it. Loops that keep these of many vectors in memory between
 * the halves are faster: a CPU looks ahead by so many instructions, and then there are more vectors among them. */
typedef struct {
    V r, t, q;
} v_begun;

TARGET NPK_INLINE V v_abs(V x) { return v_and(x, v_bits(0x7FFFFFFFu)); }
TARGET NPK_INLINE V v_negative_abs(V x) { return v_or(x, v_bits(0x80000000u)); }

/* Whether every lane is at most `limit` in magnitude, and none is NaN. */
TARGET NPK_INLINE bool v_within(V magnitude, float limit) { return v_none(v_above(magnitude, v_set1(limit))); }

/* sign x = sign (n ln 2 + r) for sign = 1 or -1 and |x| <= 160. */
TARGET NPK_INLINE v_begun v_reduce(const float sign, V x) {
    V t = v_fma(x, v_set1(sign * V_LOG2E), v_set1(V_MAGIC)), n = v_sub(t, v_set1(V_MAGIC));
    V r = v_fnma(n, v_set1(sign * V_LN2_LOW), v_fnma(n, v_set1(sign * V_LN2_HIGH), x));
    return (v_begun){r, t, r};
}

/* The same for x = high + low, low far below high. */
TARGET NPK_INLINE v_begun v_reduce_sum(V high, V low) {
    V t = v_fma(high, v_set1(V_LOG2E), v_set1(V_MAGIC)), n = v_sub(t, v_set1(V_MAGIC));
    V r = v_add(v_fnma(n, v_set1(V_LN2_HIGH), high), v_fnma(n, v_set1(V_LN2_LOW), low));
    return (v_begun){r, t, r};
}

/* exp(sign x) of what v_reduce made of x: 1 + r + r^2 p(r), relative error of p's fit 2^-28. The terms are added in
 * pairs, which depend on each other less than those of Horner's rule. */
TARGET NPK_INLINE v_scaled v_exp_of(const float sign, v_begun b) {
    V r = b.r, square = v_mul(r, r), one = v_set1(1.0f);
    V low = v_fma(v_set1(sign * 1.66664973e-1f), r, v_set1(4.99999911e-1f));
    V high = v_fma(v_set1(sign * 8.37149564e-3f), r, v_set1(4.16686684e-2f));
    high = v_fma(v_set1(1.38088479e-3f), square, high);
    low = v_fma(high, square, low);
    V rest = sign > 0.0f ? v_fma(low, square, r) : v_fnma(low, square, r);
    return (v_scaled){sign > 0.0f ? v_add(one, rest) : v_sub(one, rest), b.t};
}

/* Every function f has two forms: v_f_end(x, v_f_begin(x)) for arguments of a magnitude up to V_NEAR_f, where powers of
 * two are normal numbers and one operation scales by them, and v_f_far for the others, NaN among them. Which of the
 * two an element takes does not depend on its neighbours. */
#define V_NEAR_exp 87.0f
#define V_NEAR_tanh INFINITY
#define V_NEAR_sigmoid 80.0f
#define V_NEAR_silu 80.0f
#define V_NEAR_gelu 12.5f
#define V_NEAR_gelu_tanh 9.5f

TARGET NPK_INLINE v_begun v_exp_begin(V x) { return v_reduce(1.0f, x); }
TARGET NPK_INLINE V v_exp_end(V x, v_begun b) {
    (void)x;
    v_scaled e = v_exp_of(1.0f, b);
    return v_scale(e.m, e.t);
}

/* 0 from -103.97, infinite from 88.73. */
TARGET NPK_INLINE V v_exp_far(V x) {
    v_scaled e = v_exp_of(1.0f, v_reduce(1.0f, v_max(v_set1(-104.0f), v_min(v_set1(89.0f), x))));
    return v_ldexp(e.m, v_sub(e.t, v_set1(V_MAGIC)));
}

/* exp with a term less, relative error of the fit 1.8 x 2^-24: for sums of exponentials. */
#define V_NEAR_exp_brief V_NEAR_exp
TARGET NPK_INLINE v_begun v_exp_brief_begin(V x) { return v_reduce(1.0f, x); }
TARGET NPK_INLINE V v_exp_brief_end(V x, v_begun b) {
    (void)x;
    V r = b.r, square = v_mul(r, r);
    V low = v_fma(v_set1(1.66671194e-1f), r, v_set1(4.99992238e-1f));
    V high = v_fma(v_set1(8.31239847e-3f), r, v_set1(4.18912817e-2f));
    low = v_fma(high, square, low);
    return v_scale(v_add(v_set1(1.0f), v_fma(low, square, r)), b.t);
}
TARGET NPK_INLINE V v_exp_brief_far(V x) { return v_exp_far(x); }

/* x + x^3 p(x^2) below 0.6, else 1 - 2 / (exp(2 |x|) + 1). */
TARGET NPK_INLINE v_begun v_tanh_begin(V x) {
    V size = v_abs(x), square = v_mul(size, size);
    V p = v_fma(v_set1(-5.70490956e-3f), square, v_set1(2.06390209e-2f));
    p = v_fma(p, square, v_set1(-5.37396967e-2f));
    p = v_fma(p, square, v_set1(1.33314416e-1f));
    p = v_fma(p, square, v_set1(-3.33332807e-1f));
    v_begun b = v_reduce(1.0f, v_min(v_set1(20.0f), v_add(size, size)));
    b.q = v_fma(v_mul(p, square), size, size);
    return b;
}
TARGET NPK_INLINE V v_tanh_end(V x, v_begun b) {
    V e = v_exp_end(x, b), large = v_sub(v_set1(1.0f), v_div(v_set1(2.0f), v_add(e, v_set1(1.0f))));
    V magnitude = v_select(v_less(v_abs(x), v_set1(0.6f)), b.q, large);
    return v_or(magnitude, v_and(x, v_bits(0x80000000u)));
}
TARGET NPK_INLINE V v_tanh_far(V x) { return x; } /* NaN */

/* x / (1 + exp(-y)) for y whose reduction with sign -1 is b; |y| < 87. */
TARGET NPK_INLINE V v_gated(V x, v_begun b) {
    v_scaled e = v_exp_of(-1.0f, b);
    return v_div(x, v_add(v_set1(1.0f), v_scale(e.m, e.t)));
}

/* The same for any y, and x of the sign of y, or constant. With e = exp(-|y|) that is x e / (1 + e) for negative y;
 * e's power of two is multiplied in last, so that only the result can become subnormal. */
TARGET NPK_INLINE V v_gated_far(V x, V y) {
    M negative = v_less(y, v_set1(0.0f));
    v_scaled e = v_exp_of(1.0f, v_reduce(1.0f, v_max(v_set1(-160.0f), v_negative_abs(y))));
    V n = v_sub(e.t, v_set1(V_MAGIC)), below = v_add(v_set1(1.0f), v_ldexp(e.m, n));
    V quotient = v_div(v_select(negative, v_mul(x, e.m), x), below);
    return v_select(negative, v_ldexp(quotient, n), quotient);
}

TARGET NPK_INLINE v_begun v_sigmoid_begin(V x) { return v_reduce(-1.0f, x); }
TARGET NPK_INLINE V v_sigmoid_end(V x, v_begun b) {
    (void)x;
    return v_gated(v_set1(1.0f), b);
}
TARGET NPK_INLINE V v_sigmoid_far(V x) { return v_gated_far(v_set1(1.0f), x); }

/* x sigmoid(x); -0 at -infinity. */
TARGET NPK_INLINE v_begun v_silu_begin(V x) { return v_reduce(-1.0f, x); }
TARGET NPK_INLINE V v_silu_end(V x, v_begun b) { return v_gated(x, b); }
TARGET NPK_INLINE V v_silu_far(V x) {
    V bounded = v_max(v_set1(-160.0f), x);
    return v_gated_far(bounded, bounded);
}

/* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) = x sigmoid(y), y = 2 sqrt(2/pi) (x + 0.044715 x^3):
 * without the cancellation of 1 + tanh. */
TARGET NPK_INLINE V v_gelu_tanh_argument(V x) {
    return v_mul(x, v_fma(v_mul(x, x), v_set1(0.0713548163f), v_set1(1.59576912f)));
}
TARGET NPK_INLINE v_begun v_gelu_tanh_begin(V x) { return v_reduce(-1.0f, v_gelu_tanh_argument(x)); }
TARGET NPK_INLINE V v_gelu_tanh_end(V x, v_begun b) { return v_gated(x, b); }
TARGET NPK_INLINE V v_gelu_tanh_far(V x) {
    V bounded = v_max(v_set1(-12.0f), x);
    return v_gated_far(bounded, v_gelu_tanh_argument(bounded));
}

/* x Phi(x) = x erfc(-x / sqrt(2)) / 2 = max(x, 0) - a Phi(-a) for a = |x|. Phi(-a) = exp(-a^2 / 2) R(a), R rational,
 * fit 2^-27, for a <= 14.6; a^2 is taken with its rounding error, since an error of the exponent would be the relative
 * error of the result. q is a R(a). */
TARGET NPK_INLINE v_begun v_normal_tail(V a) {
    V half = v_mul(a, v_set1(-0.5f)), square = v_mul(a, half);
    v_begun b = v_reduce_sum(square, v_product_error(a, half, square));
    V p = v_fma(v_set1(4.15321997e-3f), a, v_set1(4.08811087e-2f));
    p = v_fma(p, a, v_set1(1.83969149e-1f));
    p = v_fma(p, a, v_set1(4.39283549e-1f));
    p = v_fma(p, a, v_set1(0.5f));
    V q = v_fma(v_set1(1.0410467e-2f), a, v_set1(1.02479859e-1f));
    q = v_fma(q, a, v_set1(4.71408705e-1f));
    q = v_fma(q, a, v_set1(1.20554849f));
    q = v_fma(q, a, v_set1(1.67645211f));
    q = v_fma(q, a, v_set1(1.0f));
    b.q = v_mul(a, v_div(p, q));
    return b;
}
TARGET NPK_INLINE v_begun v_gelu_begin(V x) { return v_normal_tail(v_abs(x)); }
TARGET NPK_INLINE V v_gelu_end(V x, v_begun b) { /* -0 for -0 */
    return v_fnma(v_exp_end(x, b), b.q, v_max(v_set1(0.0f), x));
}
TARGET NPK_INLINE V v_gelu_far(V x) {
    v_begun b = v_normal_tail(v_min(v_set1(14.6f), v_abs(x)));
    v_scaled e = v_exp_of(1.0f, b);
    V below = v_ldexp(v_mul(e.m, b.q), v_sub(e.t, v_set1(V_MAGIC)));
    return v_select(v_less(x, v_set1(0.0f)), v_sub(v_set1(-0.0f), below), x);
}

#define V_FUNCTION(f)                                                                                           \
    TARGET NPK_INLINE V v_##f(V x) {                                                                            \
        V size = v_abs(x), near = v_##f##_end(x, v_##f##_begin(x));                                             \
        if (v_within(size, V_NEAR_##f))                                                                         \
            return near;                                                                                        \
        return v_select(v_above(size, v_set1(V_NEAR_##f)), v_##f##_far(x), near);                               \
    }
V_FUNCTION(exp)
V_FUNCTION(exp_brief)
V_FUNCTION(tanh)
V_FUNCTION(sigmoid)
V_FUNCTION(silu)
V_FUNCTION(gelu)
V_FUNCTION(gelu_tanh)

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

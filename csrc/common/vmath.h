/* Elementary functions on vectors of binary32, once for all instruction sets.
 *
 * Included by vmath_generic.h, vmath_avx2.h or vmath_avx512.h, which define: TARGET, LANES, the types V and M
 * (mask), and v_set1, v_load, v_store, v_load_part(x, count, fill), v_store_part(x, v, count) for 0 < count <
 * LANES (no byte beyond is touched), v_stream (a store past the caches, aligned to a vector),
 * v_stream_part(x, v, count) of `count` elements, a multiple of 4, 16-byte aligned, and v_fence (which orders both), v_add, v_sub, v_mul, v_div, v_fma(a, b, c) = a b + c, v_fnma(a, b, c) = c - a b, v_min
 * and v_max (the second operand when either is NaN), v_less, v_above (greater or unordered), v_none (no lane of a
 * mask), v_select(m, a, b) = m ? a : b, v_and, v_or, v_bits (an integer as a float), v_largest_of (of magnitudes; NaN
 * counts as the largest), v_product_error(a, b, p) = a b - p for the rounded product p, v_scale(x, t), which adds the
 * bits of t to those of x from bit 20 on, v_lookup(table, index), the element that the lowest three bits of each index
 * name, v_interval(z), whose lowest bits count the powers of two times 1.25 and 1.75 up to z, and loads and stores
 * of 16-bit formats. V_FUSED tells whether v_fma and v_fnma round once.
 *
 * Errors in units in the last place (ULP), limits that tests/unit/kernels/test_vmath.py holds them to against
 * float64, on samples by default and on all 2^32 arguments with NPUSIM_SOAK (subnormal results: units of 2^-149):
 *
 *   v_exp 1.3   v_tanh 2   v_sigmoid 2.5   v_silu 3   v_gelu 4.5
 *
 * v_exp_brief: a relative error of 3.8 x 2^-24, of the 4 x 2^-24 that softmax's bound grants.
 * v_gelu_tanh: 4 + 3 |y| with y the argument of its exponential. All propagate NaN and take infinities to
 * their limits. Polynomials were fitted here by Lawson's iteration (weighted least squares tending to the minimax fit:
 * Rice and Usow, Math. Comp. 22, 1968), of a relative error in the interval, with coefficients rounded one by one. */

/* 1.5 x 2^23: a number of small magnitude that is added to it loses its fraction, to nearest even, and its integral
 * part stands in the lowest bits. */
#define V_MAGIC 12582912.0f

/* Arguments of exponentials are n ln 2 / 8 + r. 8 / ln 2; ln 2 / 8 as a number of 12 bits, so that its multiples are
 * exact, and the rest (Cody and Waite 1980); the nearest number to it. */
#define V_STEPS 11.5415603f
#define V_STEP_HIGH 0x1.62ep-4f
#define V_STEP_LOW 3.99327307e-6f
#define V_STEP 0x1.62e43p-4f

/* 2^(j/8) / V_SHARE, a factor for which all eight are within 2^-27 of floats (Gal and Bachelis, ACM TOMS 17, 1991; the
 * polynomials make up for it), less the j / 8 that v_scale(x, n) adds to the exponent for j = n mod 8. */
#define V_SHARE 0.91935855f
_Alignas(32) static const float V_POWERS[8] = {0x1.16747cp+0f, 0x1.0fa848p+0f, 0x1.0b2404p+0f, 0x1.091c8ap+0f,
                                               0x1.09cb7cp+0f, 0x1.0d6fb4p+0f, 0x1.144dbcp+0f, 0x1.1eb052p+0f};

/* What the first half of a function of x hands to the second: r and t = n + V_MAGIC with n ln 2 / 8 + r the argument of
 * an exponential, and q, which some functions need beside it. Loops that keep these of many vectors in memory between
 * the halves are faster: a CPU looks ahead by so many instructions, and then there are more vectors among them. */
typedef struct {
    V r, t, q;
} v_begun;

TARGET NPK_INLINE V v_abs(V x) { return v_and(x, v_bits(0x7FFFFFFFu)); }
TARGET NPK_INLINE V v_negative_abs(V x) { return v_or(x, v_bits(0x80000000u)); }

/* Whether every lane is at most `limit` in magnitude, and none is NaN. */
TARGET NPK_INLINE bool v_within(V magnitude, float limit) { return v_none(v_above(magnitude, v_set1(limit))); }

/* n step for t = n + V_MAGIC, exact for a step of 12 bits. */
TARGET NPK_INLINE V v_steps(V t, const float step) {
    return V_FUSED ? v_fma(t, v_set1(step), v_set1(-V_MAGIC * step)) : v_mul(v_sub(t, v_set1(V_MAGIC)), v_set1(step));
}

/* sign x = sign (n ln 2 / 8 + r) for sign = 1 or -1 and |x| <= 160. */
TARGET NPK_INLINE v_begun v_reduce(const float sign, V x) {
    V t = v_fma(x, v_set1(sign * V_STEPS), v_set1(V_MAGIC)), n = v_sub(t, v_set1(V_MAGIC));
    V r = v_fnma(n, v_set1(sign * V_STEP_LOW), v_fnma(n, v_set1(sign * V_STEP_HIGH), x));
    return (v_begun){r, t, r};
}

/* The same with a step less for what loses little by it: a relative error of |x| 2^-28.4 in the exponential. */
TARGET NPK_INLINE v_begun v_reduce_brief(const float sign, V x) {
    if (!V_FUSED) /* then products with V_STEP are not exact */
        return v_reduce(sign, x);
    V t = v_fma(x, v_set1(sign * V_STEPS), v_set1(V_MAGIC)), n = v_sub(t, v_set1(V_MAGIC));
    V r = v_fnma(n, v_set1(sign * V_STEP), x);
    return (v_begun){r, t, r};
}

/* 2^(n/8) (1 + c0 + c1 r + c2 r^2 + c3 r^3) for b's n and r, and the factor of V_POWERS. */
TARGET NPK_INLINE V v_power(v_begun b, const float c0, const float c1, const float c2, const float c3) {
    V q = v_fma(v_fma(v_set1(c3), b.r, v_set1(c2)), b.r, v_set1(c1));
    V power = v_scale(v_lookup(V_POWERS, b.t), b.t);
    return v_fma(power, v_fma(q, b.r, v_set1(c0)), power);
}

/* exp(sign x) of what v_reduce made of x, relative error of the fit 0.4 x 2^-24. */
TARGET NPK_INLINE V v_exp_of(const float sign, v_begun b) {
    return v_power(b, -0.08064146f, sign * 0.91935855f, 0.45975178f, sign * 0.15321091f);
}

/* What v_reduce or v_half_square made, times 2^n for an integer n. */
TARGET NPK_INLINE v_begun v_times_power(v_begun b, V n) {
    return (v_begun){b.r, v_fma(v_set1(8.0f), n, b.t), b.q};
}

/* Every function f has two forms: v_f_end(x, v_f_begin(x)) for arguments of a magnitude up to V_NEAR_f, where powers of
 * two are normal numbers and one operation scales by them, and v_f_far for the others, NaN among them. Which of the
 * two an element takes does not depend on its neighbours. */
#define V_NEAR_exp 87.0f
#define V_NEAR_tanh INFINITY
#define V_NEAR_sigmoid 16.0f
#define V_NEAR_silu 16.0f
#define V_NEAR_gelu 12.5f
#define V_NEAR_gelu_tanh 9.5f

TARGET NPK_INLINE v_begun v_exp_begin(V x) { return v_reduce(1.0f, x); }
TARGET NPK_INLINE V v_exp_end(V x, v_begun b) {
    (void)x;
    return v_exp_of(1.0f, b);
}

/* 0 from -103.97, infinite from 88.73. Calculated 2^64 times as large or small, which is a normal number. */
TARGET NPK_INLINE V v_exp_far(V x) {
    M small = v_less(x, v_set1(0.0f));
    v_begun b = v_reduce(1.0f, v_max(v_set1(-104.0f), v_min(v_set1(89.0f), x)));
    V e = v_exp_of(1.0f, v_times_power(b, v_select(small, v_set1(64.0f), v_set1(-64.0f))));
    return v_mul(e, v_select(small, v_set1(0x1p-64f), v_set1(0x1p64f)));
}

/* exp for sums of exponentials. */
#define V_NEAR_exp_brief 50.0f
TARGET NPK_INLINE v_begun v_exp_brief_begin(V x) { return v_reduce_brief(1.0f, x); }
TARGET NPK_INLINE V v_exp_brief_end(V x, v_begun b) { return v_exp_end(x, b); }
TARGET NPK_INLINE V v_exp_brief_far(V x) { return v_exp_far(x); }

/* x + x^3 p(x^2) below 0.6, else 1 - 2 / (exp(2 |x|) + 1). */
TARGET NPK_INLINE v_begun v_tanh_begin(V x) {
    V size = v_abs(x), square = v_mul(size, size);
    V p = v_fma(v_set1(-5.70490956e-3f), square, v_set1(2.06390209e-2f));
    p = v_fma(p, square, v_set1(-5.37396967e-2f));
    p = v_fma(p, square, v_set1(1.33314416e-1f));
    p = v_fma(p, square, v_set1(-3.33332807e-1f));
    v_begun b = v_reduce_brief(1.0f, v_min(v_set1(20.0f), v_add(size, size)));
    b.q = v_fma(v_mul(p, square), size, size);
    return b;
}
TARGET NPK_INLINE V v_tanh_end(V x, v_begun b) {
    V e = v_exp_end(x, b), large = v_sub(v_set1(1.0f), v_div(v_set1(2.0f), v_add(e, v_set1(1.0f))));
    V magnitude = v_select(v_less(v_abs(x), v_set1(0.6f)), b.q, large);
    return v_or(magnitude, v_and(x, v_bits(0x80000000u)));
}
TARGET NPK_INLINE V v_tanh_far(V x) { return x; } /* NaN */

/* x / (1 + exp(-y)) for y whose reduction with sign -1 is b, r in units of `unit`; |y| < 87. */
TARGET NPK_INLINE V v_gated(V x, v_begun b, const float unit) {
    const float c1 = -0.91935855f * unit, c2 = 0.45975178f * unit * unit, c3 = -0.15321091f * unit * unit * unit;
    V q = v_fma(v_fma(v_set1(c3), b.r, v_set1(c2)), b.r, v_set1(c1));
    V power = v_scale(v_lookup(V_POWERS, b.t), b.t);
    return v_div(x, v_fma(power, v_fma(q, b.r, v_set1(V_SHARE)), v_set1(1.0f)));
}

/* The same for any y beyond that, and x of the sign of y, or constant. With e = exp(-|y|) that is x e / (1 + e) for
 * negative y; e is calculated 2^120 times as large, so that only the result can become subnormal. */
TARGET NPK_INLINE V v_gated_far(V x, V y) {
    M negative = v_less(y, v_set1(0.0f));
    v_begun b = v_reduce(1.0f, v_max(v_set1(-160.0f), v_negative_abs(y)));
    V e = v_exp_of(1.0f, v_times_power(b, v_set1(120.0f)));
    V quotient = v_div(v_select(negative, v_mul(x, e), x), v_fma(e, v_set1(0x1p-120f), v_set1(1.0f)));
    return v_select(negative, v_mul(quotient, v_set1(0x1p-120f)), quotient);
}

TARGET NPK_INLINE v_begun v_sigmoid_begin(V x) { return v_reduce(-1.0f, x); }
TARGET NPK_INLINE V v_sigmoid_end(V x, v_begun b) {
    (void)x;
    return v_div(v_set1(1.0f), v_add(v_set1(1.0f), v_exp_of(-1.0f, b)));
}
TARGET NPK_INLINE V v_sigmoid_far(V x) { return v_gated_far(v_set1(1.0f), x); }

/* x sigmoid(x); -0 at -infinity. */
TARGET NPK_INLINE v_begun v_silu_begin(V x) { return v_reduce_brief(-1.0f, x); }
TARGET NPK_INLINE V v_silu_end(V x, v_begun b) { return v_gated(x, b, 1.0f); }
TARGET NPK_INLINE V v_silu_far(V x) {
    V bounded = v_max(v_set1(-160.0f), x);
    return v_gated_far(bounded, bounded);
}

/* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) = x sigmoid(y), y = 2 sqrt(2/pi) (x + 0.044715 x^3):
 * without the cancellation of 1 + tanh. The argument comes in units of -ln 2 / 8, so that sums reduce it. */
TARGET NPK_INLINE V v_gelu_tanh_argument(V x, const float c1, const float c3) {
    return v_mul(x, v_fma(v_mul(x, x), v_set1(c3), v_set1(c1)));
}
TARGET NPK_INLINE v_begun v_gelu_tanh_begin(V x) {
    V y = v_gelu_tanh_argument(x, -18.417665f, -0.82354593f), t = v_add(y, v_set1(V_MAGIC));
    V r = v_sub(y, v_sub(t, v_set1(V_MAGIC)));
    return (v_begun){r, t, r};
}
TARGET NPK_INLINE V v_gelu_tanh_end(V x, v_begun b) { return v_gated(x, b, -V_STEP); }
TARGET NPK_INLINE V v_gelu_tanh_far(V x) {
    V bounded = v_max(v_set1(-12.0f), x);
    return v_gated_far(bounded, v_gelu_tanh_argument(bounded, 1.59576912f, 0.0713548163f));
}

/* x Phi(x) = x erfc(-x / sqrt(2)) / 2 = max(x, 0) - a Phi(-a) for a = |x|, and a Phi(-a) = exp(-a^2 / 2) g(a).
 *
 * Here a^2 is exact, since an error of the exponent would be the relative error of the result: -2 r = a^2 + n h with
 * h of 12 bits near ln 2 / 4. That h (1 + k) is ln 2 / 4 costs nothing: exp(-a^2 / 2) is then 2^(n/8) times
 * exp((1 + k) r) times exp(k a^2 / 2), and g takes in the last. b's r is -2 r. */
TARGET NPK_INLINE v_begun v_half_square(V a) {
    V square = v_mul(a, a), t = v_fma(square, v_set1(-0.5f * V_STEPS), v_set1(V_MAGIC));
    V steps = v_steps(t, 2.0f * V_STEP_HIGH);
    V r = V_FUSED ? v_fma(a, a, steps) : v_add(v_add(square, steps), v_product_error(a, a, square));
    return (v_begun){r, t, r};
}
TARGET NPK_INLINE V v_exp_half_square(v_begun b) {
    return v_power(b, -0.08064147f, -0.45970067f, 0.114949815f, -0.019112857f);
}

/* g: polynomials in a - centre, fits within 0.9 x 2^-24. Interval j holds the a whose 1 + a is 2^i [1.25, 1.75) or
 * 2^i [1.75, 2.5), so v_interval(1 + a) is j in the lowest three bits. */
enum { V_GELU_CENTRE = 7 };
_Alignas(32) static const float V_GELU[8][8] = {
    {-0.00168407557f, -0.000268188829f, -3.0140176e-05f, -2.55917575e-06f,
     -1.72850648e-07f, -1.08979865e-08f, -0.0200494044f, -0.00739311986f},
    {0.00481550815f, 0.00090500043f, 0.000124692277f, 1.35852279e-05f,
     1.24111125e-06f, 1.04980685e-07f, 0.0607997328f, 0.0187569f},
    {-0.0124757038f, -0.00275117974f, -0.000462640019f, -6.52803865e-05f,
     -8.02181876e-06f, -9.51756874e-07f, -0.132782131f, -0.043487031f},
    {0.0299706236f, 0.00790078752f, 0.00167615653f, 0.000312483608f,
     5.27667289e-05f, 8.80174684e-06f, 0.250000328f, 0.0913126916f},
    {-0.0627366006f, -0.0201029349f, -0.00546965096f, -0.00136016926f,
     -0.000312149874f, -6.62534585e-05f, -0.398942083f, -0.164736465f},
    {0.107036449f, 0.0426604338f, 0.0152860945f, 0.00528224371f,
     0.0018506971f, 0.000774237327f, 0.5f, 0.237557858f},
    {0.276005864f, 0.336234987f, 0.368808955f, 0.384818166f,
     0.39270696f, 0.3968288f, 0.0f, 0.174810424f},
    {1.125f, 2.0f, 3.25f, 5.0f,
     7.5f, 11.0f, 0.0f, 0.5f},
};
TARGET NPK_INLINE V v_gelu_factor(V a) {
    V j = v_interval(v_add(a, v_set1(1.0f))), u = v_sub(a, v_lookup(V_GELU[V_GELU_CENTRE], j));
    V square = v_mul(u, u), even = v_lookup(V_GELU[0], j), odd = v_lookup(V_GELU[1], j);
    even = v_fma(even, square, v_lookup(V_GELU[2], j));
    odd = v_fma(odd, square, v_lookup(V_GELU[3], j));
    even = v_fma(even, square, v_lookup(V_GELU[4], j));
    odd = v_fma(odd, square, v_lookup(V_GELU[5], j));
    return v_fma(odd, u, v_fma(even, square, v_lookup(V_GELU[6], j)));
}
TARGET NPK_INLINE v_begun v_gelu_begin(V x) {
    V a = v_abs(x);
    v_begun b = v_half_square(a);
    b.q = v_gelu_factor(a);
    return b;
}
TARGET NPK_INLINE V v_gelu_end(V x, v_begun b) { /* -0 for -0 */
    return v_fnma(v_exp_half_square(b), b.q, v_max(v_set1(0.0f), x));
}
TARGET NPK_INLINE V v_gelu_far(V x) {
    V a = v_min(v_set1(14.6f), v_abs(x));
    V g = v_fma(v_fma(v_fma(v_set1(3.27534758e-6f), a, v_set1(-1.57824848e-4f)), a, v_set1(3.03377956e-3f)), a,
                v_set1(0.378207415f));
    V e = v_exp_half_square(v_times_power(v_half_square(a), v_set1(64.0f)));
    return v_select(v_less(x, v_set1(0.0f)), v_mul(v_mul(v_set1(-0x1p-64f), g), e), x);
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

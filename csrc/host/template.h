/* The loops once for all vector lengths. The including file defines TARGET, LANES, the types V (float) and I (int32),
 * v_set1, v_add, v_fma, v_rsqrt, v_first, i_set1, i_add, i_first, i_load, i_store, i_store_past, v_fence and
 * i_hide(x), which returns x in a way the compiler cannot see through: without it equal products are made once. Where
 * there are integer products and 16-bit floats, HAS_SHORT and i_dot16, v_from_fp16, v_from_bf16. */

/* Independent chains: latency (4 or 5 cycles) times units (2) of every known core, within 16 registers. */
enum { CHAINS = 12, READS = 8 };

#define COMPUTE(name, chains, operations, declare, step)                                                            \
    TARGET static double name(int64_t steps, float *sink) {                                                         \
        V acc[chains];                                                                                              \
        declare;                                                                                                    \
        NPK_UNROLL                                                                                                  \
        for (int u = 0; u < chains; u++)                                                                            \
            acc[u] = v_set1((float)(steps + u)); /* unknown to the compiler */                                   \
        for (int64_t s = 0; s < steps; s++) {                                                                       \
            NPK_UNROLL                                                                                              \
            for (int u = 0; u < chains; u++) {                                                                      \
                step;                                                                                               \
            }                                                                                                       \
        }                                                                                                           \
        NPK_UNROLL                                                                                                  \
        for (int u = 1; u < chains; u++)                                                                            \
            acc[0] = v_add(acc[0], acc[u]);                                                                         \
        *sink = v_first(acc[0]);                                                                                    \
        return (double)(operations) * (chains) * LANES;                                                             \
    }

#define FACTORS const V x = v_set1(0.999f), y = v_set1(0.001f)
COMPUTE(fma_chains, CHAINS, 2, FACTORS, acc[u] = v_fma(acc[u], x, y))
COMPUTE(fma_one_chain, 1, 2, FACTORS, acc[u] = v_fma(acc[u], x, y))
COMPUTE(additions, CHAINS, 1, const V y = v_set1(0.001f), acc[u] = v_add(acc[u], y))
COMPUTE(reciprocal_roots, CHAINS, 1, (void)0, acc[u] = v_rsqrt(acc[u]))
#ifdef HAS_SHORT
#define CODES const V y = v_set1(0.001f); I h = i_set1(0x3C003C00)
COMPUTE(fma_fp16, CHAINS, 2, CODES, h = i_hide(h); acc[u] = v_fma(v_from_fp16(h), y, acc[u]))
COMPUTE(fma_bf16, CHAINS, 2, CODES, h = i_hide(h); acc[u] = v_fma(v_from_bf16(h), y, acc[u]))
#endif

/* The same for integers: `products` per 32-bit lane. */
#define DOT(attribute, name, products, dot)                                                                         \
    attribute static double name(int64_t steps, float *sink) {                                                      \
        I acc[CHAINS], a = i_set1(0x01020304);                                                                      \
        const I b = i_set1(0x01010101);                                                                             \
        NPK_UNROLL                                                                                                  \
        for (int u = 0; u < CHAINS; u++)                                                                            \
            acc[u] = i_set1(u);                                                                                     \
        for (int64_t s = 0; s < steps; s++) {                                                                       \
            NPK_UNROLL                                                                                              \
            for (int u = 0; u < CHAINS; u++) {                                                                      \
                a = i_hide(a);                                                                                      \
                acc[u] = i_hide(dot(acc[u], a, b)); /* in place: gcc spills a second copy */                            \
            }                                                                                                       \
        }                                                                                                           \
        NPK_UNROLL                                                                                                  \
        for (int u = 1; u < CHAINS; u++)                                                                            \
            acc[0] = i_add(acc[0], acc[u]);                                                                         \
        *sink = (float)i_first(acc[0]);                                                                             \
        return 2.0 * (products) * CHAINS * LANES;                                                                   \
    }
#ifdef HAS_SHORT
DOT(TARGET, dot16, 2, i_dot16)
#endif

enum { BYTES = LANES * 4 };

TARGET static void read_once(int64_t bytes, const char *source, char *target) {
    I sum[READS];
    (void)target;
    NPK_UNROLL
    for (int u = 0; u < READS; u++)
        sum[u] = i_set1(0);
    for (int64_t i = 0; i < bytes; i += READS * BYTES) {
        NPK_UNROLL
        for (int u = 0; u < READS; u++)
            sum[u] = i_add(sum[u], i_load(source + i + u * BYTES));
    }
    NPK_UNROLL
    for (int u = 1; u < READS; u++)
        sum[0] = i_add(sum[0], sum[u]);
    volatile int32_t kept = i_first(sum[0]);
    (void)kept;
}

#define STORES(name, store, value, end)                                                                             \
    TARGET static void name(int64_t bytes, const char *source, char *target) {                                      \
        const I fill = i_set1(1);                                                                                   \
        (void)source;                                                                                               \
        (void)fill;                                                                                                 \
        for (int64_t i = 0; i < bytes; i += READS * BYTES) {                                                        \
            NPK_UNROLL                                                                                              \
            for (int u = 0; u < READS; u++)                                                                         \
                store(target + i + u * BYTES, value);                                                               \
        }                                                                                                           \
        end;                                                                                                        \
    }
STORES(write_once, i_store, fill, (void)0)
STORES(copy_once, i_store, i_load(source + i + u * BYTES), (void)0)
STORES(copy_past, i_store_past, i_load(source + i + u * BYTES), v_fence())

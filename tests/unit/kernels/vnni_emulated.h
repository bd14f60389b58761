/* The vector operations of the VNNI and AVX-512 quantised kernels in plain C, sixteen lanes. */
#ifndef VNNI_EMULATED_H
#define VNNI_EMULATED_H
#include <math.h>
#include <stdint.h>
#include <string.h>

#define TARGET
#define npk_cpu_supports(name) true
#define LOOP for (int i = 0; i < 16; i++)

typedef struct {
    int32_t lane[16];
} Ints;
typedef struct {
    float lane[16];
} Floats;

static inline Ints ints_load(const void *p) { Ints v; memcpy(&v, p, sizeof v); return v; }
static inline Ints ints_set1(int32_t x) { Ints v; LOOP v.lane[i] = x; return v; }
static inline Ints ints_quad(const void *p) { int32_t x; memcpy(&x, p, sizeof x); return ints_set1(x); }
static inline Ints ints_add(Ints a, Ints b) { LOOP a.lane[i] = (int32_t)((uint32_t)a.lane[i] + (uint32_t)b.lane[i]); return a; }
static inline Ints ints_sub(Ints a, Ints b) { LOOP a.lane[i] = (int32_t)((uint32_t)a.lane[i] - (uint32_t)b.lane[i]); return a; }
static inline Ints ints_mul(Ints a, Ints b) { LOOP a.lane[i] = (int32_t)((uint32_t)a.lane[i] * (uint32_t)b.lane[i]); return a; }
/* vpdpbusd: four products of unsigned a by signed b, added without saturation */
static inline Ints ints_dot(Ints acc, Ints a, Ints b) {
    uint8_t u[64];
    int8_t s[64];
    memcpy(u, &a, 64);
    memcpy(s, &b, 64);
    LOOP for (int t = 0; t < 4; t++)
        acc.lane[i] = (int32_t)((uint32_t)acc.lane[i] + (uint32_t)(u[4 * i + t] * s[4 * i + t]));
    return acc;
}
static inline Ints ints_nibbles(Ints v, int shift) { LOOP v.lane[i] = (int32_t)((uint32_t)v.lane[i] >> shift & 0x0F0F0F0Fu); return v; }
static inline Ints ints_flip(Ints v) { LOOP v.lane[i] ^= (int32_t)0x88888888u; return v; }
static inline Ints ints_bits(Ints v, int left, int right) { LOOP v.lane[i] = (int32_t)((uint32_t)v.lane[i] << left) >> right; return v; }
static inline Ints ints_of(Floats v) { Ints r; LOOP r.lane[i] = (int32_t)lrintf(v.lane[i]); return r; }
static inline Floats floats_of(Ints v) { Floats r; LOOP r.lane[i] = (float)v.lane[i]; return r; }
static inline Floats floats_load(const float *p) { Floats v; memcpy(&v, p, sizeof v); return v; }
static inline Floats floats_set1(float x) { Floats v; LOOP v.lane[i] = x; return v; }
static inline Floats floats_add(Floats a, Floats b) { LOOP a.lane[i] += b.lane[i]; return a; }
static inline Floats floats_sub(Floats a, Floats b) { LOOP a.lane[i] -= b.lane[i]; return a; }
static inline Floats floats_mul(Floats a, Floats b) { LOOP a.lane[i] *= b.lane[i]; return a; }
static inline Floats floats_fma(Floats a, Floats b, Floats c) { LOOP c.lane[i] = fmaf(a.lane[i], b.lane[i], c.lane[i]); return c; }
#endif

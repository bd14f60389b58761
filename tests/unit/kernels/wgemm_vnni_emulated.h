/* Stands in for csrc/wgemm/simd_vnni.h. */
#include "vnni_emulated.h"
enum { LANES = 16 };
typedef Floats V;
typedef Ints I;
typedef Ints P;
#define v_set1 floats_set1
#define v_load floats_load
#define v_store(p, v) ((void)memcpy(p, &(Floats[]){v}, sizeof(Floats)))
#define v_add floats_add
#define v_mul floats_mul
#define v_of floats_of
#define i_zero() ints_set1(0)
#define i_load(p) ints_flip(ints_load(p))
#define i_low(v) ints_nibbles(v, 0)
#define i_high(v) ints_nibbles(v, 4)
#define i_add ints_add
#define i_sub ints_sub
#define i_mul ints_mul
#define i_set1 ints_set1
#define i_of ints_of
#define i_quad ints_quad
#define p_start(offset) ints_set1((int16_t)((offset) & 0xFFFF) + ((offset) >> 16))
#define p_dot ints_dot
#define p_sum(p) (p)

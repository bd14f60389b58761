/* Stands in for csrc/wgemm/simd_avx512.h. */
#include "vnni_emulated.h"
enum { LANES = 16 };
typedef Floats V;
typedef Ints I;
#define v_zero() floats_set1(0)
#define v_set1 floats_set1
#define v_load floats_load
#define v_store(p, v) ((void)memcpy(p, &(Floats[]){v}, sizeof(Floats)))
#define v_add floats_add
#define v_sub floats_sub
#define v_mul floats_mul
#define v_fma floats_fma
#define v_of floats_of
#define i_load(p) ints_load(p)
#define i_bits ints_bits

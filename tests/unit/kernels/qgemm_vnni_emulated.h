/* Stands in for csrc/qgemm/simd_vnni.h. */
#include "vnni_emulated.h"
typedef Ints V;
#define v_zero() ints_set1(0)
#define v_load(p) ints_load(p)
#define v_store(p, v) ((void)memcpy(p, &(Ints[]){v}, sizeof(Ints)))
#define v_add ints_add
#define v_quad ints_quad
#define v_dot ints_dot

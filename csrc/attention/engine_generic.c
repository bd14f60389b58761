/* Portable: vectors of four floats, 4 x 8 tile. */
#include "attention.h"

#include <math.h>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#define NPK_LANES 4
#include "simd_portable.h"

enum { MR = 4, NV = 2 };
#include "engine_simd.h"

const attn_isa *attn_isa_generic(void) { return &ISA; }

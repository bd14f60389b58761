/* The portable casts: codec_simd.h with vectors of four lanes that a compiler turns into
 * whatever its target has. */
#include "formats.h"
#include "simd_plain.h"

#include "codec_simd.h"

const codec_ctx *codec_ctx_generic(void) { return &CTX; }

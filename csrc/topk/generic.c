#include "topk.h"

#include "../common/vmath_generic.h"
#include "template.h"

const topk_table *topk_generic(void) { return &TABLE; }

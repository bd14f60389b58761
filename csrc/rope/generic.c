#include "rope.h"

#include "../common/vmath_generic.h"
#include "template.h"

const rope_table *rope_generic(void) { return &TABLE; }

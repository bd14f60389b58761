#include "activation.h"

#include "../common/vmath_generic.h"
#include "template.h"

const activation_table *activation_generic(void) { return &TABLE; }

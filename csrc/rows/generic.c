#include "rows.h"

#include "../common/vmath_generic.h"
#include "template.h"

const rows_table *rows_generic(void) { return &TABLE; }

"""C declarations as cffi takes them, read from the headers themselves, so that no prototype is written twice.

A folder's ``api.h`` holds what Python calls and nothing else: enums, structs and prototypes. Comments and the
preprocessor's lines are dropped here, and array parameters become void pointers: ``ffi.from_buffer`` gives those
at a tenth of the cost of a typed cast.
"""

import os
import re
from pathlib import Path

# As shipped; tests/sanitize.sh may ask for another.
OPTIMISATION = os.environ.get("NPUSIM_OPTIMISATION", "-O3")

_ELEMENT = r"\b(const\s+)?(?:float|double|u?int(?:8|16|32|64)_t)\s*\*"


def declarations(headers: list[str]) -> str:
    """The text of the headers, ready for ``FFI.cdef``."""
    text = "\n".join(Path(header).read_text(encoding="utf-8") for header in headers)
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    text = re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
    return re.sub(_ELEMENT, lambda match: f"{match[1] or ''}void *", text)

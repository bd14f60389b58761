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


# An argument of any type; csrc/python/shortcut.c has the same union.
SLOT = "\ntypedef union npk_slot { int64_t i; double f; void *p; } npk_slot;\n"


def adapters(text: str) -> dict[str, str]:
    """One function for every ``int npk_...(...)`` of ``declarations`` that takes its arguments as an array of slots.

    Returns:
        Bodies by prototypes, such as ``int npk_slots_softmax(const npk_slot *s)``.
    """
    found = {}
    for name, parameters in re.findall(r"\bint npk_(\w+)\(([^()]*)\)\s*;", text):
        slots = (_slot(i, parameter) for i, parameter in enumerate(parameters.split(",")))
        found[f"int npk_slots_{name}(const npk_slot *s)"] = f"{{ return npk_{name}({', '.join(slots)}); }}"
    return found


def _slot(i: int, parameter: str) -> str:
    """What of slot ``i`` becomes such a parameter."""
    if "*" in parameter:
        return f"s[{i}].p"
    kind = parameter.rsplit(None, 1)[0].strip()
    return f"({kind})s[{i}].{'f' if kind in ('float', 'double') else 'i'}"

"""Types of the extension of csrc/python/shortcut.c, where each of these is described."""

from typing import Any

class Shortcut:
    def __init__(self, arrays: int, options: int, written: int) -> None: ...
    def run(self, *arguments: Any) -> Any: ...
    def keep(
        self,
        arguments: tuple[Any, ...],
        function: int,
        slots: bytes,
        sources: bytes,
        shapes: tuple[Any, ...],
        result: int,
        held: tuple[Any, ...],
    ) -> bool: ...

def configure(
    array_type: type, empty: Any, dtypes: tuple[Any, ...], environment: dict[Any, Any], variable: Any
) -> None: ...
def forget() -> None: ...

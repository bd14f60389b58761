"""Arithmetic on named numbers, for derived parameters of a plan. Nothing else can be written in it.

An expression is parsed by Python's ``ast`` and accepted only if it is made of numbers, names, ``+ - * / // % **``,
parentheses and the functions in ``FUNCTIONS``; it is then evaluated by walking the tree. Names may have dots
(``chip.memory.bandwidth``) and stand for plain numbers.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from npusim.errors import InputError, Problem, unknown_name

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "sqrt": math.sqrt,
    "log2": math.log2,
    "ceil": math.ceil,
    "floor": math.floor,
    "round": round,
}
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
MAX_TEXT, MAX_NODES, MAX_POWER = 500, 200, 64
ALLOWED = f"numbers, parameters, + - * / // % ** and {', '.join(FUNCTIONS)}"


class Expression:
    """A checked expression; ``names`` are the parameters it uses."""

    def __init__(self, text: str) -> None:
        """Parses ``text``. Raises InputError when it is anything but arithmetic."""
        self.text = text
        self.names: set[str] = set()
        if len(text) > MAX_TEXT:
            raise InputError(Problem(f"an expression longer than {MAX_TEXT} characters"))
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise InputError(Problem(f"{text[:60]!r} is not an expression", allowed=ALLOWED)) from None
        if sum(1 for _ in ast.walk(self._tree)) > MAX_NODES:
            raise InputError(Problem("an expression of too many terms", allowed=f"at most {MAX_NODES} nodes"))
        self._check(self._tree)

    def _check(self, node: ast.AST) -> None:
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return
        if isinstance(node, (ast.Name, ast.Attribute)) and (name := _dotted(node)):
            self.names.add(name)
        elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            self._check(node.left)
            self._check(node.right)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
            self._check(node.operand)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            if node.func.id not in FUNCTIONS:
                raise unknown_name("function", node.func.id, FUNCTIONS)
            for argument in node.args:
                self._check(argument)
        else:
            raise InputError(Problem(f"{self.text[:60]!r} is not arithmetic", allowed=ALLOWED))

    def value(self, known: Mapping[str, object]) -> float | int:
        """The number it stands for. Raises InputError for an unknown name or a result that is no finite number."""
        try:
            found = _evaluate(self._tree, known)
            finite = isinstance(found, (int, float)) and math.isfinite(found)
        except InputError:
            raise
        except (ArithmeticError, ValueError, TypeError) as error:
            raise InputError(Problem(f"{self.text[:80]!r} has no value: {error}")) from None
        if not finite:
            raise InputError(Problem(f"{self.text[:80]!r} is not a finite number"))
        return found  # type: ignore[no-any-return]


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (head := _dotted(node.value)):
        return f"{head}.{node.attr}"
    return ""


def _evaluate(node: ast.AST, known: Mapping[str, object]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, (ast.Name, ast.Attribute)):
        name = _dotted(node)
        if name not in known:
            raise unknown_name("parameter", name, known)
        value = known[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(Problem(f"'{name}' is not a number"))
        return value
    if isinstance(node, ast.UnaryOp):
        value = _evaluate(node.operand, known)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name)
        return FUNCTIONS[node.func.id](*(_evaluate(argument, known) for argument in node.args))
    assert isinstance(node, ast.BinOp)
    left, right = _evaluate(node.left, known), _evaluate(node.right, known)
    if isinstance(node.op, ast.Pow) and abs(right) > MAX_POWER:
        raise InputError(Problem(f"a power of {right:g}", allowed=f"exponents of at most {MAX_POWER}"))
    # Whole numbers of any length cost any amount of time.
    if isinstance(left, int) and abs(left) > 2**64:
        left = float(left)
    return _OPERATORS[type(node.op)](left, right)

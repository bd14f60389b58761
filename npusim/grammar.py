"""The WORKLOAD argument of the command line.

``MODEL:prefill[,b=,prompt=,w=,a=,kv=,tp=,ep=]``, ``MODEL:decode[,b=,ctx=,w=,a=,kv=,tp=,ep=]``, or an operator:
``gemm:m=,n=,k=,a=,b=,out=`` and likewise every operator of ``npusim.workload.OPS``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from npusim import llm, workload
from npusim.errors import InputError, Problem, unknown_name
from npusim.workload import Op, Workload

_STEP_KEYS = {
    "prefill": {"b": "batch", "batch": "batch", "prompt": "prompt", "past": "past", "page": "page"},
    "decode": {"b": "batch", "batch": "batch", "ctx": "context", "context": "context", "page": "page"},
}
_FORMAT_KEYS = {"w": "weights", "weights": "weights", "a": "activations", "activations": "activations", "kv": "kv"}
_CONSTRUCTORS: dict[str, Callable[..., Op]] = {
    "gemm": workload.gemm,
    "experts": workload.experts,
    "attention": workload.attention,
    "norm": workload.norm,
    "softmax": workload.softmax,
    "elementwise": workload.elementwise,
    "embedding": workload.embedding,
    "conv2d": workload.conv2d,
    "collective": workload.collective,
}
_FLAGS = {"0": False, "1": True, "false": False, "true": True}
GRAMMAR = (
    "MODEL:prefill[,b=,prompt=,w=,a=,kv=,tp=,ep=], MODEL:decode[,b=,ctx=,w=,a=,kv=,tp=,ep=], "
    "an operator such as gemm:m=4096,n=4096,k=4096,a=bf16,b=bf16,out=bf16, "
    "or a file: NET.onnx[:DIM=,...,w=,a=], TOPOLOGY.csv[:rounding=]"
)


def parse_workload(text: str) -> Workload:
    """Parses a WORKLOAD argument.

    Raises:
        InputError: unknown model, operator, key or value; each names what is allowed.
    """
    imported = re.fullmatch(r"(.*\.(?:onnx|csv))(?::(.*))?", text, re.IGNORECASE | re.DOTALL)
    if imported:
        return _import(imported[1], imported[2] or "")
    head, colon, tail = text.rpartition(":")
    if not colon:
        raise InputError(Problem(f"{text!r} is not a workload"[:160], "WORKLOAD", allowed=GRAMMAR))
    if head in _CONSTRUCTORS:
        return _operator(head, tail)
    phase, _, rest = tail.partition(",")
    if phase not in _STEP_KEYS:
        if "=" in phase or "/" not in head:
            kinds = [*_CONSTRUCTORS, *_STEP_KEYS]
            raise unknown_name("operator or phase", head if "=" in phase else phase, kinds, "WORKLOAD")
        raise InputError(Problem(f"{text!r} is not a workload"[:160], "WORKLOAD", allowed=GRAMMAR))
    return _model_step(head, phase, rest)


def _pairs(text: str, where: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not value:
            raise InputError(Problem(f"{part!r} is not KEY=VALUE"[:120], where, allowed=GRAMMAR))
        if key in pairs:
            raise InputError(Problem(f"'{key}' is given twice"[:120], where))
        pairs[key] = value
    return pairs


def _value(text: str) -> Any:
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,400}", text) else text


def _argument(key: str, text: str, kind: str, annotation: str) -> Any:
    """The value of an operator's argument by its annotation: format or function names, flags, dimensions."""
    if annotation == "str":
        return text
    if annotation == "bool":
        if text not in _FLAGS:
            raise InputError(Problem(f"{text!r} is not a flag"[:120], f"{kind}.{key}", allowed="0 or 1"))
        return _FLAGS[text]
    return _value(text)


def _import(path: str, rest: str) -> Workload:
    """A file of another tool: an ONNX graph with its symbolic dimensions, or a SCALE-Sim topology."""
    pairs = _pairs(rest, path)
    if path.lower().endswith(".csv"):
        from npusim.importers.scalesim import import_scalesim_topology

        for key in set(pairs) - {"rounding"}:
            raise unknown_name("key of a topology", key, ["rounding"], path)
        return import_scalesim_topology(path, **pairs)
    from npusim.importers.onnx_graph import import_onnx

    formats = {_FORMAT_KEYS[key]: pairs.pop(key) for key in ("w", "a", "weights", "activations") if key in pairs}
    sizes = {key: _value(value) for key, value in pairs.items()}
    for key, value in sizes.items():
        if not isinstance(value, int):
            raise InputError(Problem(f"{value!r} is not a size"[:120], f"{path}: {key}", allowed="an integer"))
    return import_onnx(path, dims=sizes, **formats)


def _model_step(model: str, phase: str, rest: str) -> Workload:
    where = f"{model}:{phase}"
    names = _STEP_KEYS[phase] | _FORMAT_KEYS | {"tp": "tp", "ep": "ep", "p": "precision", "precision": "precision"}
    arguments: dict[str, Any] = {}
    for key, value in _pairs(rest, where).items():
        if key not in names:
            raise unknown_name(f"key of {phase}", key, names, where)
        name = names[key]
        if name in arguments:
            raise InputError(Problem(f"'{name}' is given twice", where))
        if name == "precision":
            fmt = llm.precision(value)
            arguments |= {"weights": fmt.weights, "activations": fmt.activations, "kv": fmt.kv}
        else:
            arguments[name] = _value(value)
    build = llm.prefill if phase == "prefill" else llm.decode
    return build(model, **arguments)


def _operator(kind: str, rest: str) -> Workload:
    build = _CONSTRUCTORS[kind]
    known = {name: p for name, p in inspect.signature(build).parameters.items() if name != "name"}
    arguments: dict[str, Any] = {}
    for key, value in _pairs(rest, kind).items():
        if key not in known:
            raise unknown_name(f"key of {kind}", key, known, kind)
        arguments[key] = _argument(key, value, kind, str(known[key].annotation))
    required = {name for name, p in known.items() if p.default is inspect.Parameter.empty}
    if required - set(arguments):
        missing = ", ".join(sorted(required - set(arguments)))
        raise InputError(Problem(f"missing {missing}", kind, allowed=f"{kind} takes {', '.join(sorted(known))}"))
    return Workload(f"{kind}:{rest}", (build(**arguments),))

"""Ops that are compared, by the name the command line knows them by."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from bench.peers import others, products
from bench.peers.products import Build
from npusim.errors import InputError, Problem, unknown_name

OPS: dict[str, Callable[[], Iterator[Build]]] = {
    "gemm": products.gemm,
    "half": products.half,
    "qgemm": products.qgemm,
    "weight_gemm": products.weight_gemm,
    "block_gemm": products.block_gemm,
    "attention": others.attention,
    "rows": others.rows,
    "casts": others.casts,
    "conv": products.conv,
}


def label(build: Build) -> str:
    """What a problem will be, without building it: words and sizes, ``in cache gelu 16 × 4096``."""
    flat = [x for given in build.args for x in (given if isinstance(given, tuple) else (given,))]
    words = [x for x in flat if isinstance(x, str)] + [name for name, value in build.keywords.items() if value]
    return " ".join([*words, products.by_name(*(x for x in flat if isinstance(x, int)))])


def problems(ops: Sequence[str], matching: str = "") -> Iterator[Build]:
    """What builds the problems of the named ops, one after the other.

    Args:
        ops: keys of ``OPS``.
        matching: regular expression that is found in their labels.

    Raises:
        InputError: an op that is not known, or not a regular expression.
    """
    for op in ops:
        if op not in OPS:
            raise unknown_name("op", op, OPS, "--op")
    try:
        pattern = re.compile(matching)
    except re.error as error:
        raise InputError(Problem(f"{matching!r} is no regular expression: {error}", "--shape")) from None
    return (build for build in chain.from_iterable(OPS[op]() for op in ops) if pattern.search(label(build)))

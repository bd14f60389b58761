"""Spellings in measured rows: which chip of the catalog a device name means, which formats a dtype name means.

Device names come from the ``aliases:`` of the chip files, compared as sets of words, so that case, dashes, the
vendor and the form factor do not matter but a different product does ("H100 PCIe" is not "H100-SXM").
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from npusim import dtypes
from npusim.chip import alias_index
from npusim.errors import did_you_mean

# Words that name no product of their own. Vendors first, then how the same chip is mounted or counted.
_VENDORS = {"nvidia", "amd", "intel", "habana", "aws", "google", "huawei", "sambanova", "tenstorrent", "instinct"}
_FORMS = {"sxm", "sxm2", "sxm3", "sxm4", "sxm5", "sxm6", "oam", "server", "gpu", "npu", "tesla", "geforce", "agx"}
_SITES = {"pairwise", "nvlink", "dgx", "hgx", "power", "capped", "hbm2", "hbm2e", "hbm3", "hbm3e"}
_CAPACITY = re.compile(r"\d+gb")
_COUNT = re.compile(r"^\d+\s*x\s*(?=\D)|\s+x\s*\d+$")


def _words(name: str) -> frozenset[str]:
    text = _COUNT.sub("", name.strip().lower())
    text = re.sub(r"(\d+)\s*gb\b", r"\1gb", text)
    return frozenset(re.findall(r"[a-z0-9.]+", text))


@lru_cache(maxsize=1)
def _index() -> list[dict[frozenset[str], str]]:
    """From strict to tolerant: words of every catalog name and alias → chip, an ambiguous set of words left out."""
    levels: list[dict[frozenset[str], str]] = []
    for level in range(4):
        found: dict[frozenset[str], set[str]] = {}
        for spelling, chip in alias_index().items():
            found.setdefault(_reduced(_words(spelling), level), set()).add(chip)
        levels.append({words: min(chips) for words, chips in found.items() if words and len(chips) == 1})
    return levels


def _reduced(words: frozenset[str], level: int) -> frozenset[str]:
    if level >= 1:
        words = words - _VENDORS
    if level >= 2:
        words = words - _FORMS - _SITES
    if level >= 3:
        words = frozenset(word for word in words if not _CAPACITY.fullmatch(word))
    return words


@lru_cache(maxsize=4096)
def chip_of(device: str) -> str | None:
    """The catalog chip a device spelling means, or None when no chip of the catalog does.

    >>> chip_of("NVIDIA H200_SXM-141GB"), chip_of("h100 pcie"), chip_of("iPhone-7")
    ('h200', 'h100-pcie', None)
    """
    exact = alias_index().get(device.strip().lower())
    if exact is not None:
        return exact
    words = _words(device)
    for level, index in enumerate(_index()):
        found = index.get(_reduced(words, level))
        if found is not None:
            return found
    return None


def nearest(device: str) -> str:
    """A hint for a device no chip matches: ``did you mean 'h200'?``, or nothing."""
    return did_you_mean(device.lower(), alias_index())


@dataclass(frozen=True)
class Formats:
    """What a dtype spelling says of an operation.

    Args:
        a: format of the activations (the left operand, the query).
        b: format of the weights (the right operand).
        out: format of the result.
        kv: format of the KV cache.
        engine: rate the matrix engine runs at when it is not that of the operands (float32 in memory multiplied
            as bf16), or ``""``.
        weight_only: the weights alone are quantised and widened before the multiplication.
        quantised: activations arrive in bf16 and are quantised by the measured operation.
    """

    a: str
    b: str
    out: str
    kv: str
    engine: str = ""
    weight_only: bool = False
    quantised: bool = False


def _same(name: str, out: str = "") -> Formats:
    return Formats(name, name, out or name, name)


def _weight_only(weights: str, a: str = "bf16") -> Formats:
    return Formats(a, weights, a, a, weight_only=True)


def _quantised(name: str, out: str = "bf16") -> Formats:
    return Formats(name, name, out, name, quantised=True)


# Spelling in lower case → formats. Beyond these: any format name of ``npusim.dtypes``, ``A/kv_B`` and ``a:A/w:B``.
DTYPES: dict[str, Formats] = {
    "bfloat16": _same("bf16"),
    "bfloat16/bfloat16": _same("bf16"),
    "bfloat16_or_unclear": _same("bf16"),
    "half": _same("fp16"),
    "float": _same("fp32"),
    "uint32": _same("int32"),
    "uint16": _same("int16"),
    "uint8": _same("int8"),
    "int32": _same("int32"),
    # serving stacks: the activation is quantised inside the measured operation
    "fp8": _quantised("fp8"),
    "fp8_block": _quantised("fp8"),
    "mxfp8": _quantised("mxfp8"),
    "nvfp4": _quantised("nvfp4"),
    "mxfp4": _quantised("mxfp4"),
    "sq": _quantised("int8"),
    "int8": _same("int8", "bf16"),
    "int8_wo": _weight_only("int8"),
    "int4_wo": _weight_only("int4"),
    "w8a16": _weight_only("int8"),
    "w4a16": _weight_only("int4"),
    "w4a16_mxfp4": _weight_only("mxfp4"),
    "w4a16_nvfp4": _weight_only("nvfp4"),
    "w4a8": Formats("int8", "int4", "bf16", "int8", quantised=True),
    "w4afp8": Formats("fp8", "int4", "bf16", "fp8", quantised=True),
    "w4a8_mxfp4_mxfp8": Formats("mxfp8", "mxfp4", "bf16", "fp8", quantised=True),
    "w4a8_mxfp4_fp8": Formats("fp8", "mxfp4", "bf16", "fp8", quantised=True),
    "w4a8_nvfp4_fp8": Formats("fp8", "nvfp4", "bf16", "fp8", quantised=True),
    "w8a8": _quantised("int8"),
    "w8a8_int8": _same("int8", "bf16"),
    "w8a8_dynamic": _quantised("int8"),
    "w8a8_float8_e4m3fn": _same("fp8", "bf16"),
    "w8a8_float8_e4m3fnuz": _same("fp8", "bf16"),
    "w4a4": _quantised("int4"),
    "w4a4_dynamic": _quantised("int4"),
    "fp4": _same("nvfp4", "bf16"),
    # block floats of Tenstorrent: one exponent per 16 elements (8.5 and 4.5 bits)
    "bfloat8_b": _same("mxfp8"),
    "bfloat4_b": _same("nvfp4"),
    "bfloat8_b/bfloat8_b": _same("mxfp8"),
    "bfloat16/bfloat8_b": Formats("bf16", "mxfp8", "bf16", "bf16"),
    "bfloat16/bfloat4_b": Formats("bf16", "nvfp4", "bf16", "bf16"),
    # float32 in memory, multiplied as bf16 by the array (JAX default precision)
    "float32(default-precision=bf16-mxu)": replace(_same("fp32"), engine="bf16"),
    # sheet names of DeepBench's result workbooks
    "results fp32": _same("fp32"),
    "results - fp32": _same("fp32"),
    "results - fp16 ip, mixed math": _same("fp16", "fp32"),
    "results - mixed precision": _same("int8", "int32"),
    "results - psuedo fp16": replace(_same("fp16"), engine="fp32"),
    "kernels": _same("fp32"),
}
_TORCH = {
    "float8_e4m3fn": "fp8",
    "float8_e4m3fnuz": "fp8",
    "float8_e5m2": "fp8",
    "float4_e2m1fn_x2": "mxfp4",
    "uint4": "int4",
}


@lru_cache(maxsize=4096)
def formats_of(dtype: str) -> Formats | None:
    """The formats a dtype spelling means, or None for a spelling nobody knows.

    >>> formats_of("bfloat16/kv_fp8").kv, formats_of("a:torch.bfloat16/w:torch.int4").b
    ('fp8', 'int4')
    """
    text = dtype.strip().lower()
    if text in DTYPES:
        return DTYPES[text]
    if "/kv_" in text:
        a, _, kv = text.partition("/kv_")
        first, second = formats_of(a), formats_of(kv)
        if first is None or second is None:
            return None
        return replace(first, out="bf16" if first.a == "fp8" else first.a, kv=second.a, quantised=False)
    pair = re.fullmatch(r"a:(.+)/w:(.+)", text)
    if pair:
        left, right = (_plain(part.removeprefix("torch.")) for part in pair.groups())
        if left is None or right is None:
            return None
        wide = dtypes.bits(left) > dtypes.bits(right)
        return Formats(left, right, "bf16", left, weight_only=wide and left in ("bf16", "fp16"))
    plain = _plain(text)
    return _same(plain) if plain else None


def _plain(name: str) -> str | None:
    name = _TORCH.get(name, name)
    try:
        return dtypes.get(name).name
    except ValueError:
        return None


def known_dtype(dtype: str) -> bool:
    """Whether ``formats_of`` knows the spelling; an empty one stands for a format that was not recorded."""
    return not dtype.strip() or formats_of(dtype) is not None

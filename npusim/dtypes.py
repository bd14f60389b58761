"""Number formats: how many bits an element takes with its share of scales, and how engines name them.

Traffic is always ``elements × bits / 8``; it never comes from an ``itemsize`` (a packed int4 tensor
has ``itemsize`` 1 in every array library). Block formats count their shared scale.

Sources: OCP Microscaling Formats (MX) v1.0, section 5 (block of 32 elements, one 8-bit E8M0 scale);
NVFP4: block of 16 elements, one fp8 e4m3 scale (NVIDIA Blackwell documentation); group-quantised
int4: groups of 128 with one fp16 scale, as GPTQ and AWQ checkpoints store it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from npusim.errors import unknown_name


@dataclass(frozen=True)
class Format:
    """A number format.

    Args:
        name: canonical name.
        element_bits: bits of one element.
        scale_bits: bits of the scale one block shares (0 when there is none in memory).
        block: elements that share a scale.
        rate: the name engines list their rate under (``mxfp4`` runs at the ``fp4`` rate).
        doc: one line for the documentation.
    """

    name: str
    element_bits: int
    scale_bits: int
    block: int
    rate: str
    doc: str

    @property
    def bits(self) -> float:
        """Bits per element including the share of the scale."""
        return self.element_bits + self.scale_bits / self.block


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format("fp64", 64, 0, 1, "fp64", "IEEE binary64"),
        Format("fp32", 32, 0, 1, "fp32", "IEEE binary32"),
        Format("tf32", 32, 0, 1, "tf32", "binary32 storage, 10-bit mantissa on the engine"),
        Format("fp16", 16, 0, 1, "fp16", "IEEE binary16"),
        Format("bf16", 16, 0, 1, "bf16", "bfloat16"),
        Format("fp8", 8, 0, 1, "fp8", "OCP fp8 e4m3; per-tensor or per-channel scales, not counted"),
        Format("fp8_e5m2", 8, 0, 1, "fp8", "OCP fp8 e5m2"),
        Format("fp6", 6, 0, 1, "fp6", "OCP fp6 e2m3 without block scale"),
        Format("fp6_e3m2", 6, 0, 1, "fp6", "OCP fp6 e3m2 without block scale"),
        Format("fp4", 4, 0, 1, "fp4", "OCP fp4 e2m1 without block scale"),
        Format("int32", 32, 0, 1, "int32", "32-bit integer"),
        Format("int16", 16, 0, 1, "int16", "16-bit integer"),
        Format("int8", 8, 0, 1, "int8", "8-bit integer; per-tensor or per-channel scales, not counted"),
        Format("int4", 4, 16, 128, "int4", "4-bit integer, groups of 128 with one fp16 scale"),
        Format("mxfp8", 8, 8, 32, "fp8", "OCP MX fp8 e4m3, one E8M0 scale per 32"),
        Format("mxfp8_e5m2", 8, 8, 32, "fp8", "OCP MX fp8 e5m2, one E8M0 scale per 32"),
        Format("mxfp6", 6, 8, 32, "fp6", "OCP MX fp6 e2m3, one E8M0 scale per 32"),
        Format("mxfp6_e3m2", 6, 8, 32, "fp6", "OCP MX fp6 e3m2, one E8M0 scale per 32"),
        Format("mxfp4", 4, 8, 32, "fp4", "OCP MX fp4, one E8M0 scale per 32"),
        Format("mxint8", 8, 8, 32, "int8", "OCP MX int8, one E8M0 scale per 32"),
        Format("nvfp4", 4, 8, 16, "fp4", "NVFP4: e2m1, one e4m3 scale per 16"),
    )
}

ALIASES: dict[str, str] = {
    "float64": "fp64",
    "f64": "fp64",
    "float32": "fp32",
    "f32": "fp32",
    "float": "fp32",
    "float16": "fp16",
    "f16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
    "fp8_e4m3": "fp8",
    "fp8_e4m3fn": "fp8",
    "float8": "fp8",
    "float8_e4m3fn": "fp8",
    "e4m3": "fp8",
    "float8_e5m2": "fp8_e5m2",
    "e5m2": "fp8_e5m2",
    "fp6_e2m3": "fp6",
    "e2m3": "fp6",
    "e3m2": "fp6_e3m2",
    "fp4_e2m1": "fp4",
    "e2m1": "fp4",
    "mxfp8_e4m3": "mxfp8",
    "mxfp6_e2m3": "mxfp6",
    "i8": "int8",
    "s8": "int8",
    "i4": "int4",
    "w4": "int4",
    "i32": "int32",
    "i16": "int16",
}

# What runs instead when an engine has no rate for a format: the next format whose rate stands in for
# it. Widening is free of error; bf16 and fp16 stand in for one another because engines that have only
# one run the other's models at the same rate (range or mantissa differ, speed does not).
_FALLBACKS: dict[str, tuple[str, ...]] = {
    "fp4": ("fp6", "fp8", "bf16", "fp16", "tf32", "fp32"),
    "fp6": ("fp8", "bf16", "fp16", "tf32", "fp32"),
    "fp8": ("bf16", "fp16", "tf32", "fp32"),
    "int4": ("int8", "bf16", "fp16", "tf32", "fp32"),
    "int8": ("int16", "bf16", "fp16", "tf32", "fp32"),
    "int16": ("fp32",),
    "bf16": ("fp16", "tf32", "fp32"),
    "fp16": ("bf16", "tf32", "fp32"),
    "tf32": ("fp32",),
    "fp32": ("fp64",),
}


def get(name: str, path: str = "") -> Format:
    """Returns the format called ``name`` (or one of its aliases). Raises InputError for an unknown name."""
    key = str(name).lower()
    key = ALIASES.get(key, key)
    if key not in FORMATS:
        raise unknown_name("number format", str(name), FORMATS, path)
    return FORMATS[key]


@lru_cache(maxsize=512)
def bits(name: str) -> float:
    """Bits per element including scales: ``bits("mxfp4") == 4.25``."""
    return get(name).bits


def operand_format(a: str, b: str) -> str:
    """The format a matrix engine works in for operands ``a`` and ``b``: the wider of the two.

    Weight-only quantisation (w4a16) converts weights to the activation format on the way in, so the
    engine runs at the activation's rate. At equal width the activation ``a`` decides.
    """
    fa, fb = get(a), get(b)
    return fb.rate if fb.element_bits > fa.element_bits else fa.rate


def engine_rate(fmt: str, rates: dict[str, float]) -> tuple[str, float] | None:
    """Finds the rate an engine runs ``fmt`` at.

    Args:
        fmt: a rate name (see ``operand_format``).
        rates: what the engine lists, by rate name, in any unit.

    Returns:
        ``(name, rate)`` of the format itself or of the first fallback the engine has; None when it
        has neither.
    """
    for name in (fmt, *_FALLBACKS.get(fmt, ())):
        if name in rates:
            return name, rates[name]
    return None

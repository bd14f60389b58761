"""Address maps: which channel, pseudo-channel, bank, row and column an address falls in.

A map is linear over GF(2): every field is the XOR of slices of the address, which covers plain interleaving and
the hashed maps in use. The one published exception, three SIDs in RNGD, is a rule of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from npusim.cost.dram_spec import MemorySpec
from npusim.errors import InputError, Problem, unknown_name

FIELDS = ("ch", "pc", "ra", "bg", "ba", "ro", "co")
FIELD_NAMES = ("channel", "pseudo_channel", "sid", "bank_group", "bank", "row", "column")

# Consecutive 256 bytes stay in one channel, then pseudo-channels, channels and bank groups alternate; a page of
# every bank group is walked before the next bank.
DEFAULT_ORDER = "ro ra ba co bg ch pc co:256B"

Slice = tuple[int, int, int, int]  # shift in the address, width, field, position in the field


@dataclass(frozen=True)
class AddressMap:
    """A map from byte addresses to fields.

    Args:
        slices: ``(shift, width, field, position)``; fields count in the order of ``FIELDS``.
        limit: addresses are below it (bytes).
        third_bit: address bit that selects the third SID, −1 for none.
        top_row: row bit that the SID bit then becomes.
    """

    slices: tuple[Slice, ...]
    limit: int
    third_bit: int = -1
    top_row: int = 0


def ordered_map(
    spec: MemorySpec, order: str = DEFAULT_ORDER, *, devices: int = 1, hashed: tuple[str, ...] = ()
) -> AddressMap:
    """A map that cuts the address into fields, most significant first.

    Args:
        spec: the device; all its sizes must be powers of two.
        order: field names (``ch pc ra bg ba ro co``; ``ra`` is the SID) from the top of the address down. One
            field may appear twice: ``co:256B`` takes the column bits below 256 bytes, ``co:2`` takes two bits.
        devices: devices in parallel; they extend ``ch``.
        hashed: fields (of ``ch``, ``pc``, ``bg``, ``ba``, ``ra``) XORed with row bits, so that strides do not stay
            in one of them.

    Raises:
        InputError: an unknown or missing field, or a size that is no power of two.
    """
    widths = _widths(spec, devices)
    pieces = _pieces(spec, order, dict(widths))
    shift = _log2("burst bytes", spec.geometry.burst_bytes)
    used = dict.fromkeys(FIELDS, 0)
    slices: list[Slice] = []
    row_shift = 0
    for name, width in reversed(pieces):
        if width:
            slices.append((shift, width, FIELDS.index(name), used[name]))
        if name == "ro" and not used["ro"]:
            row_shift = shift
        used[name] += width
        shift += width
    return AddressMap((*slices, *_hash(hashed, widths, row_shift)), 1 << shift)


def _widths(spec: MemorySpec, devices: int) -> dict[str, int]:
    g = spec.geometry
    sizes = (g.channels * devices, g.pseudo_channels, g.sids, g.bank_groups, g.banks, g.rows, g.columns)
    return {name: _log2(FIELD_NAMES[i], sizes[i]) for i, name in enumerate(FIELDS)}


def _log2(what: str, size: int) -> int:
    if size < 1 or size & (size - 1):
        raise InputError(
            Problem(f"{what} = {size} is no power of two", hint="such a memory needs an address map of its own")
        )
    return size.bit_length() - 1


def _pieces(spec: MemorySpec, order: str, left: dict[str, int]) -> list[tuple[str, int]]:
    """(field, width) from the top down; the piece without a width takes what the others leave."""
    tokens = order.split() if " " in order else [order[i : i + 2] for i in range(0, len(order), 2)]
    parsed: list[tuple[str, int | None]] = []
    for token in tokens:
        name, _, size = token.partition(":")
        if name not in FIELDS:
            raise unknown_name("address field", name, FIELDS)
        width = None if not size else _piece_width(spec, size)
        if width is not None:
            # A page smaller than the piece asked for is the piece.
            width = min(width, left[name])
            left[name] -= width
        parsed.append((name, width))
    rest = [name for name, width in parsed if width is None]
    if sorted(rest) != sorted(set(rest)):
        raise InputError(Problem(f"order {order!r} names a field twice without widths"))
    missing = [name for name in FIELDS if name not in rest and left[name]]
    if missing:
        raise InputError(Problem(f"order {order!r} lacks {', '.join(missing)}", allowed=f"fields: {' '.join(FIELDS)}"))
    return [(name, left[name] if width is None else width) for name, width in parsed]


def _piece_width(spec: MemorySpec, size: str) -> int:
    digits = size.removesuffix("B")
    if not digits.isdecimal() or len(digits) > 6:
        raise InputError(
            Problem(f"{size!r} is not a piece of a field", allowed="bits as in 'co:2', bytes as in 'co:256B'")
        )
    if size == digits:
        return int(digits)
    return _log2("piece in bursts", max(1, int(digits) // spec.geometry.burst_bytes))


def _hash(hashed: tuple[str, ...], widths: dict[str, int], row_shift: int) -> list[Slice]:
    """Every field takes its own slice of the row's low bits and, in reverse order, of its high bits.

    Low bits break up strides of pages; high bits separate streams that lie a power of two apart, the banks first,
    because streams meet in every channel. Any function of the row keeps the map one-to-one.
    """
    slices, first = [], 0
    for name in hashed:
        if name not in ("ch", "pc", "bg", "ba", "ra"):
            raise unknown_name("hashed field", name, ("ch", "pc", "bg", "ba", "ra"))
        width = widths[name]
        total = sum(widths[other] for other in hashed)
        for at in dict.fromkeys((first, widths["ro"] - total + first)):
            if width and 0 <= at <= widths["ro"] - width:
                slices.append((row_shift + at, width, FIELDS.index(name), 0))
        first += width
    return slices


def rngd_map() -> AddressMap:
    """RNGD's published map of 48 GB over 2 stacks × 16 channels × 3 SIDs, for the HBM3 of ``rngd_memory``.

    Source: furiosa-opt ``docs/src/moving-tensors/memory-performance.md`` ("Address space in a chip"): bits 0-7
    byte, 8 stack, 9-12 channel, 13 bank group, 14-16 byte, 17-18 bank, 19 bank group, 20 slice, 21-33 row, 34
    slice, 35 row; the channel is the XOR of bits 9-12 with 13-28. Assumed, because the page says only that the
    row influences bit 34: the third slice moves bit 20 to the top of the row, which makes 48 GB contiguous. The
    page's example of the hash leaves bit 17 out; its table and its rule include it, and so does this map.
    """
    ch, ra, bg, ba, ro, co = (FIELDS.index(name) for name in ("ch", "ra", "bg", "ba", "ro", "co"))
    slices: list[Slice] = [(6, 2, co, 0), (8, 1, ch, 4), (9, 4, ch, 0)]
    slices += [(shift, 4, ch, 0) for shift in (13, 17, 21, 25)]
    slices += [(13, 1, bg, 0), (14, 3, co, 2), (17, 2, ba, 0), (19, 1, bg, 1)]
    slices += [(20, 1, ra, 0), (21, 13, ro, 0), (35, 1, ro, 13)]
    return AddressMap(tuple(slices), 3 << 34, third_bit=34, top_row=13)

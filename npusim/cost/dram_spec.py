"""What a DRAM device and its controller are: typed, frozen descriptions read from ``catalog/memories``.

A file gives one device's geometry, its command timings and the clocks its commands occupy. A timing is an
integer (clocks, at any rate) or a time (rounded up to whole clocks at the pin rate in use), so a faster grade of
the same device keeps its nanoseconds. Names are those of the JEDEC standards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, ValidationInfo, model_validator

from npusim import units, yamlio
from npusim.chip import Provenance, read_described
from npusim.chip_parts import BitsPerS, Bytes, Count, Memory, Spec
from npusim.errors import InputError, Problem, unknown_name

MEMORIES = Path(__file__).parents[1] / "catalog" / "memories"

# Rounding slack of a time in clocks: 2.5 ns at 1.2 GHz is 3 clocks, not 4, whatever the last bit says.
_SLACK = 1e-6


def _clocks_or_time(value: object, info: ValidationInfo) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise InputError(
            Problem(f"{value!r} is not a timing", allowed="an integer of clocks or a time such as '15 ns'")
        )
    if isinstance(value, float) and (info.context or {}).get("from_file"):
        raise InputError(Problem(f"{value!r} has no unit", allowed="an integer of clocks or a time such as '15 ns'"))
    return units.parse(value, "time") if isinstance(value, str) else value


# An int is clocks, a float is seconds.
Timed = Annotated[int | float, BeforeValidator(_clocks_or_time), Field(ge=0, le=2**20, allow_inf_nan=False)]
Clocks = Annotated[float, Field(gt=0, le=64, multiple_of=0.5)]
PowerOfTwo = Annotated[int, Field(ge=1, le=2**30, strict=True)]


class Geometry(Spec):
    """One device (an HBM stack, a GDDR or LPDDR chip): how it is divided and how wide it is."""

    channels: Count
    pseudo_channels: Count = 1  # per channel
    sids: Count = 1  # stack IDs (ranks) per pseudo-channel
    bank_groups: Count = 1  # per SID
    banks: Count  # per bank group
    page_bytes: Bytes = Field(alias="page")  # of one pseudo-channel
    rows: Count  # per bank
    channel_bits: Count  # data pins of one channel, over its pseudo-channels
    burst_length: Count
    bits_per_clock: Count  # data bits per pin and command clock
    burst_max_clocks: Count | None = None  # BL/n_max where same-group write-to-read counts from it
    pin_rate_bits_per_s: BitsPerS = Field(alias="pin_rate")

    @model_validator(mode="after")
    def _whole(self) -> Geometry:
        if (
            self.channel_bits % self.pseudo_channels
            or (self.channel_bits // self.pseudo_channels * self.burst_length) % 8
        ):
            raise InputError(Problem("channel_bits do not divide into whole bytes per burst and pseudo-channel"))
        if self.burst_length % self.bits_per_clock:
            raise InputError(Problem("a burst must take whole clocks: burst_length / bits_per_clock"))
        if self.page_bytes % self.burst_bytes:
            raise InputError(Problem("a page must hold whole bursts"))
        return self

    @property
    def burst_bytes(self) -> int:
        """Bytes one column command moves."""
        return self.channel_bits // self.pseudo_channels * self.burst_length // 8

    @property
    def columns(self) -> int:
        """Bursts per page."""
        return int(self.page_bytes) // self.burst_bytes

    @property
    def clock_s(self) -> float:
        """Command clock period in seconds: data bits per pin and clock / pin rate."""
        return self.bits_per_clock / self.pin_rate_bits_per_s

    @property
    def banks_per_pseudo_channel(self) -> int:
        """Over all SIDs and groups."""
        return self.sids * self.bank_groups * self.banks

    @property
    def capacity_bytes(self) -> int:
        """Of the device."""
        per_channel = self.pseudo_channels * self.banks_per_pseudo_channel * self.rows * int(self.page_bytes)
        return self.channels * per_channel


class Commands(Spec):
    """How long commands occupy their bus, in clocks; ``dual`` has row and column buses of their own."""

    bus: Literal["dual", "single"]
    act: Clocks = 1.0
    pre: Clocks = 1.0
    column: Clocks = 1.0


class Timing(Spec):
    """Command-to-command times: int in clocks, float in seconds (see the JEDEC standard of the device)."""

    tCL: Timed
    tCWL: Timed
    tRCDRD: Timed
    tRCDWR: Timed
    tRP: Timed
    tRPab: Timed | None = None  # precharge of all banks, when it differs
    tRAS: Timed
    tRC: Timed
    tWR: Timed
    tRTP: Timed
    tCCD_S: Timed
    tCCD_L: Timed
    tCCD_R: Timed | None = None  # other SID; as tCCD_S when absent
    tRRD_S: Timed
    tRRD_L: Timed
    tFAW: Timed
    tWTR_S: Timed
    tWTR_L: Timed
    tRTW: Timed | None = None  # read to write command; CL + BL + 2 − CWL when absent
    tPPD: Timed = 0
    tRFC: Timed
    tRFCpb: Timed
    tRREFD: Timed
    tREFI: Timed


class MemorySpec(Spec):
    """A DRAM device. Load it with ``load_memory``, vary it with ``replace``; times are SI inside."""

    format: Literal["npusim-memory/1"]
    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9.+_-]*$")]
    title: str
    sources: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    geometry: Geometry
    commands: Commands
    timing: Timing
    _provenance: dict[yamlio.Keys, Provenance] = PrivateAttr(default_factory=dict)

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    def provenance(self, *path: str) -> Provenance:
        """Source and status of a figure, for example ``provenance("timing", "tCL")``."""
        return self._provenance.get(path, Provenance("this file", "assumed"))

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Pin bandwidth of the device: channels × channel_bits × pin rate / 8."""
        g = self.geometry
        return g.channels * g.channel_bits * g.pin_rate_bits_per_s / 8

    def clocks(self, name: str) -> int:
        """A timing in whole clocks at the device's pin rate (times are rounded up)."""
        value = getattr(self.timing, name)
        if value is None:
            value = self._default(name)
        return value if isinstance(value, int) else math.ceil(value / self.geometry.clock_s - _SLACK)

    def _default(self, name: str) -> int:
        if name == "tRTW":
            burst = self.geometry.burst_length // self.geometry.bits_per_clock
            return self.clocks("tCL") + burst + 2 - self.clocks("tCWL")
        return self.clocks({"tRPab": "tRP", "tCCD_R": "tCCD_S"}[name])

    def replace(self, changes: Mapping[str, object]) -> MemorySpec:
        """Returns a device with figures changed, by dotted path (``{"timing.tRFC": "260 ns"}``).

        Raises:
            InputError: an unknown path or a value out of range.
        """
        data = self.model_dump(exclude_none=True)
        for path, value in changes.items():
            part, _, key = path.partition(".")
            if path not in _PATHS:
                near = [known for known in _PATHS if known.startswith(part + ".")]
                raise unknown_name("memory figure", path, near or _PATHS)
            data[part][key] = value
        changed = yamlio.validate(MemorySpec, data, yamlio.Document(data, f"memory {self.name}"))
        changed._provenance.update(self._provenance)
        return changed

    def lockstep(self) -> MemorySpec:
        """The device with the pseudo-channels of a channel run as one: bursts and pages as wide as the channel."""
        g = self.geometry
        return self.replace({"geometry.pseudo_channels": 1, "geometry.page": float(g.page_bytes * g.pseudo_channels)})


_PARTS: dict[str, type[Spec]] = {"geometry": Geometry, "commands": Commands, "timing": Timing}
_PATHS = [f"{part}.{f.alias or n}" for part, model in _PARTS.items() for n, f in model.model_fields.items()]


@dataclass(frozen=True)
class Controller:
    """The memory controller of a channel, and the front end that feeds it.

    Args:
        window: read queue entries per pseudo-channel, all visible to the scheduler. The pseudo-channels of a
            channel share their entries.
        backlog: reads a channel accepts behind a full window.
        write_queue: write queue entries per pseudo-channel, likewise shared; a write is posted.
        unified: writes share the window with reads, which they enter in batches when ``write_high`` is reached;
            otherwise the channel serves either reads or writes.
        write_high: writes that start a drain, as a share of the queue.
        write_low: writes left when a drain may end.
        hit_cap: row hits that may pass an older request to the same bank; 0 for any number.
        refresh: ``none``, ``all-bank`` (REFab every tREFI) or ``per-bank`` (REFpb every tREFI / banks).
        front_window: pending requests of one front end that feeds all channels in order; 0 gives every channel
            its own, so that channels never wait for one another.
        front_issue: requests the shared front end hands over per clock.
        max_outstanding: reads in flight the shared front end allows; 0 for any number.
        return_clocks: from the end of a read's data until the shared front end knows of it.
    """

    window: int = 64
    backlog: int = 0
    write_queue: int = 64
    unified: bool = False
    write_high: float = 0.8
    write_low: float = 0.2
    hit_cap: int = 16
    refresh: str = "all-bank"
    front_window: int = 0
    front_issue: int = 16
    max_outstanding: int = 0
    return_clocks: int = 0

    REFRESH = ("none", "all-bank", "per-bank")

    def __post_init__(self) -> None:
        if self.refresh not in self.REFRESH:
            raise unknown_name("refresh policy", str(self.refresh), self.REFRESH)
        bounds = {
            "window": (1, 512),
            "write_queue": (1, 512),
            "backlog": (0, 512),
            "hit_cap": (0, 2**31 - 1),
            "front_window": (0, 65536),
            "front_issue": (1, 65536),
            "max_outstanding": (0, 65536),
            "return_clocks": (0, 65536),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise InputError(Problem(f"{name} = {value!r} is out of range", name, allowed=f"{low} to {high}"))
        if not 0 <= self.write_low <= self.write_high <= 1 or self.write_high == 0:
            raise InputError(Problem("watermarks must satisfy 0 <= write_low <= write_high <= 1, write_high > 0"))


def config_fields(spec: MemorySpec, controller: Controller, devices: int = 1) -> dict[str, int]:
    """The C model's configuration: timings from command to command in ticks.

    A tick is half a clock when a command takes half clocks, else a clock.

    Args:
        spec: the device.
        controller: the controller.
        devices: devices in parallel (stacks, chips).
    """
    g, commands = spec.geometry, spec.commands
    edge = ticks_per_clock(spec)
    t = {name: spec.clocks(name) * edge for name in Timing.model_fields}
    burst = g.burst_length // g.bits_per_clock * edge
    longest = (g.burst_max_clocks or 0) * edge or burst
    window, write_queue = (x * g.pseudo_channels for x in (controller.window, controller.write_queue))
    if max(window, write_queue) > 512:
        raise InputError(Problem(f"queues of {max(window, write_queue)} entries per channel", allowed="at most 512"))
    # A drain starts above the high mark and ends below the low one.
    high = min(write_queue, math.floor(controller.write_high * write_queue) + 1)
    return {
        "channels": g.channels * devices,
        "pcs": g.pseudo_channels,
        "sids": g.sids,
        "groups": g.bank_groups,
        "banks": g.banks,
        "dual_bus": int(commands.bus == "dual"),
        "edge": edge,
        "act_ticks": round(commands.act * edge),
        "pre_ticks": round(commands.pre * edge),
        "col_ticks": round(commands.column * edge),
        "rcd_rd": t["tRCDRD"],
        "rcd_wr": t["tRCDWR"],
        "rp": t["tRP"],
        "rp_ab": t["tRPab"],
        "ras": t["tRAS"],
        "rc": t["tRC"],
        "cl": t["tCL"],
        "cwl": t["tCWL"],
        "bl": burst,
        "ccd_s": max(t["tCCD_S"], burst),
        "ccd_l": max(t["tCCD_L"], burst),
        "ccd_r": max(t["tCCD_R"], burst),
        "rrd_s": t["tRRD_S"],
        "rrd_l": t["tRRD_L"],
        "faw": t["tFAW"],
        "ppd": t["tPPD"],
        "rd_to_wr": max(t["tRTW"], t["tCL"] + burst - t["tCWL"]),
        "wr_to_rd_s": t["tCWL"] + burst + t["tWTR_S"],
        "wr_to_rd_l": t["tCWL"] + longest + t["tWTR_L"],
        "rtp": t["tRTP"],
        "wr_to_pre": t["tCWL"] + burst + t["tWR"],
        "refresh": Controller.REFRESH.index(controller.refresh),
        "rfc": t["tRFC"],
        "refi": t["tREFI"],
        "rfc_pb": t["tRFCpb"],
        "refi_pb": t["tREFI"] // g.banks_per_pseudo_channel,
        "rrefd": t["tRREFD"],
        "window": window,
        "write_queue": write_queue,
        "write_high": high,
        "write_low": min(math.ceil(controller.write_low * write_queue), high),
        "backlog": controller.backlog,
        "unified": int(controller.unified),
        "hit_cap": controller.hit_cap,
        "front_window": controller.front_window,
        "front_issue": controller.front_issue,
        "max_outstanding": controller.max_outstanding,
        "return_ticks": controller.return_clocks * edge,
    }


def ticks_per_clock(spec: MemorySpec) -> int:
    """2 when a command takes half clocks, else 1."""
    c = spec.commands
    return 1 if all(float(x).is_integer() for x in (c.act, c.pre, c.column)) else 2


def memory_names() -> list[str]:
    """Names of the memories in the catalog, sorted."""
    return sorted(path.stem for path in MEMORIES.glob("*.yaml"))


def read_memory(path: Path | str) -> MemorySpec:
    """Reads and checks a memory file. Raises InputError with file:line:col of every problem."""
    document = yamlio.load_yaml(path)
    spec, provenance = read_described(MemorySpec, document)
    spec._provenance.update(provenance)
    return spec


@lru_cache(maxsize=64)
def load_memory(name: str) -> MemorySpec:
    """A memory of the catalog by name. Raises InputError with the closest name for an unknown one."""
    if name not in memory_names():
        raise unknown_name("memory", name, memory_names())
    return read_memory(MEMORIES / f"{name}.yaml")


def described(memory: Memory) -> bool:
    """Whether a timing table describes a chip's main memory."""
    return (memory.timing or memory.kind).lower() in memory_names()


def memory_of(memory: Memory) -> tuple[MemorySpec, int]:
    """The device and the number of devices behind a chip's main memory.

    The chip's own channel count, width and pin rate replace the catalog's; timings in nanoseconds stay.

    Raises:
        InputError: no timing table is named after ``timing`` or ``kind``.
    """
    spec = load_memory((memory.timing or memory.kind).lower())
    changes: dict[str, object] = {}
    for ours, theirs in (
        ("geometry.channels", memory.channels),
        ("geometry.pseudo_channels", memory.pseudo_channels),
        ("geometry.channel_bits", memory.channel_bits),
        ("geometry.pin_rate", memory.pin_rate_bits_per_s),
    ):
        if theirs is not None:
            changes[ours] = theirs
    return (spec.replace(changes) if changes else spec), memory.stacks or 1

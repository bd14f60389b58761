"""The parts a chip description is made of, each a frozen, validated record.

Fields are named with their SI unit (``capacity_bytes``); the file writes them without (``capacity``) and
as a quantity with a unit. Numbers are SI when they come from Python.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator

from npusim import dtypes, units
from npusim.errors import InputError, Problem, unknown_name

DECLARED_TOLERANCE = 0.01


def quantity(dimension: str) -> BeforeValidator:
    """Validator that turns a string with a unit into SI; numbers pass unless they come from a file."""

    def check(value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool):
            value = str(value)  # yes and no are not quantities
        plain_number = isinstance(value, (int, float))
        if plain_number and not (info.context or {}).get("from_file"):
            return value  # the Python API and overrides speak SI
        if plain_number:
            value = str(value)  # units.parse explains what is missing
        return units.parse(value, dimension)

    return BeforeValidator(check)


def _rates(kind: str) -> BeforeValidator:
    """Keys of a rate table must be names an engine can list a rate under."""
    known = {f.rate for f in dtypes.FORMATS.values()} if kind == "format" else set(VECTOR_CLASSES)

    def check(value: object) -> object:
        for key in value if isinstance(value, dict) else ():
            if key not in known:
                raise unknown_name("rate", str(key), known)
        return value

    return BeforeValidator(check)


# Function classes of the vector unit: what an element-wise pass is made of.
VECTOR_CLASSES = ("add", "exp", "rsqrt", "convert")

Positive = Field(gt=0, allow_inf_nan=False, strict=True)
Bytes = Annotated[float, Positive, quantity("capacity")]
BytesPerS = Annotated[float, Positive, quantity("bandwidth")]
BitsPerS = Annotated[float, Positive, quantity("pin_rate")]
Hertz = Annotated[float, Positive, quantity("frequency")]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True), quantity("time")]
FlopsPerS = Annotated[float, Positive, quantity("compute")]
Watts = Annotated[float, Positive, quantity("power")]
Joules = Annotated[float, Positive, quantity("energy")]
SquareMm = Annotated[float, Positive, quantity("area")]
Count = Annotated[int, Field(ge=1, le=2**40, strict=True)]
Number = Annotated[float, Positive]
PeakTable = Annotated[dict[str, FlopsPerS], _rates("format")]
RateTable = Annotated[dict[str, Number], _rates("format")]


class Spec(BaseModel):
    """Base of every part: frozen, no unknown keys, written with the names of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), serialize_by_alias=True)


class Process(Spec):
    """Manufacturing process of the compute die."""

    node: str
    node_nm: Number | None = None


class Area(Spec):
    """Silicon area: one compute die, and how many of them the package holds."""

    die_mm2: SquareMm | None = Field(None, alias="die")
    dies: Count = 1


class Matrix(Spec):
    """The matrix engine of one core. ``flops_per_cycle`` is per core, dense, one MAC = 2 FLOP."""

    engine: Literal["systolic", "dot", "tensorcore"]
    flops_per_cycle: RateTable
    rows: Count | None = None  # systolic: height of one array
    cols: Count | None = None  # systolic: width of one array
    arrays: Count = 1  # systolic: arrays per core
    dataflow: Literal["os", "ws", "is"] = "ws"
    overlap: bool = True  # systolic: the next fold fills while the current one drains
    lanes: Count | None = None  # dot: dot-product units per core
    width: Count | None = None  # dot: MACs of one unit per cycle at the widest listed format
    shape: tuple[Count, Count, Count] | None = None  # tensorcore: m, n, k of one instruction

    @model_validator(mode="after")
    def _complete(self) -> Matrix:
        needs = {"systolic": ("rows", "cols"), "dot": ("lanes", "width"), "tensorcore": ("shape",)}
        for name in needs[self.engine]:
            if getattr(self, name) is None:
                raise InputError(Problem(f"a {self.engine} engine needs '{name}'"))
        if not self.flops_per_cycle:
            raise InputError(Problem("flops_per_cycle lists no format"))
        return self


class Vector(Spec):
    """The vector/SFU unit of one core: ``lanes`` elements per cycle at ``rates`` operations per lane."""

    lanes: Count
    clock_hz: Hertz | None = Field(None, alias="clock")
    rates: Annotated[dict[str, Number], _rates("vector")] = {"add": 1.0}
    overlaps_matrix: bool = True
    overlaps_scores: bool | None = None  # attention's softmax beside the engine; None: as overlaps_matrix

    @property
    def hides_softmax(self) -> bool:
        """Whether the engine multiplies while the softmax of attention runs."""
        return self.overlaps_matrix and self.overlaps_scores is not False

    @model_validator(mode="after")
    def _has_base_rate(self) -> Vector:
        if "add" not in self.rates:
            raise InputError(Problem("rates need 'add': classes without a rate of their own run at it"))
        return self


class Core(Spec):
    """One core: a matrix engine and a vector unit."""

    matrix: Matrix | None = None
    vector: Vector | None = None


class Level(Spec):
    """An on-chip memory level. Capacity and bandwidth are of one instance (per core, cluster or chip)."""

    scope: Literal["core", "cluster", "chip"]
    capacity_bytes: Bytes = Field(alias="capacity")
    instances: Count | None = None  # scope 'cluster': how many there are
    bandwidth_bytes_per_s: BytesPerS | None = Field(None, alias="bandwidth")
    bytes_per_cycle: Number | None = None  # alternative to bandwidth: follows the clock
    buffers: Annotated[int, Field(ge=1, le=16, strict=True)] = 2
    managed: Literal["software", "cache"] = "software"

    @model_validator(mode="after")
    def _one_bandwidth(self) -> Level:
        if self.bandwidth_bytes_per_s is not None and self.bytes_per_cycle is not None:
            raise InputError(Problem("give 'bandwidth' or 'bytes_per_cycle', not both"))
        if self.scope == "cluster" and self.instances is None:
            raise InputError(Problem("scope 'cluster' needs 'instances'"))
        return self


class Memory(Spec):
    """Main memory: DRAM stacks or packages, or the SRAM of a chip without DRAM.

    Bandwidth is either given or derived: stacks × channels × channel_bits × pin_rate / 8.
    """

    kind: str
    capacity_bytes: Bytes = Field(alias="capacity")
    bandwidth_bytes_per_s: BytesPerS | None = Field(None, alias="bandwidth")
    usable: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.90
    stacks: Count | None = None
    channels: Count | None = None  # per stack
    pseudo_channels: Count | None = None  # per channel
    channel_bits: Count | None = None  # data pins of one channel
    pin_rate_bits_per_s: BitsPerS | None = Field(None, alias="pin_rate")
    timing: str | None = None  # name of a DRAM timing table

    @model_validator(mode="after")
    def _derive_bandwidth(self) -> Memory:
        if self.geometry_bandwidth is None:
            return self
        if self.bandwidth_bytes_per_s is None:
            object.__setattr__(self, "bandwidth_bytes_per_s", self.geometry_bandwidth)
        elif abs(self.bandwidth_bytes_per_s / self.geometry_bandwidth - 1) > DECLARED_TOLERANCE:
            raise InputError(
                Problem(
                    f"bandwidth {units.show(self.bandwidth_bytes_per_s, 'B/s')} contradicts stacks × channels × "
                    f"channel_bits × pin_rate = {units.show(self.geometry_bandwidth, 'B/s')}",
                    hint="give one of them, or the data-sheet figure under 'declared'",
                )
            )
        return self

    @property
    def geometry_bandwidth(self) -> float | None:
        """Bandwidth in bytes/s from the pins, None when the geometry is not fully described."""
        if None in (self.stacks, self.channels, self.channel_bits, self.pin_rate_bits_per_s):
            return None
        assert self.stacks and self.channels and self.channel_bits and self.pin_rate_bits_per_s
        return self.stacks * self.channels * self.channel_bits * self.pin_rate_bits_per_s / 8


class Dma(Spec):
    """DMA engines of the chip: bandwidth is of one engine."""

    engines: Count
    bandwidth_bytes_per_s: BytesPerS | None = Field(None, alias="bandwidth")
    bytes_per_cycle: Number | None = None
    setup_s: Seconds | None = Field(None, alias="setup")
    alignment_bytes: Bytes | None = Field(None, alias="alignment")
    prefetch: bool = False  # the next operator's weights are fetched into free shared memory meanwhile


class Fabric(Spec):
    """On-chip network or die-to-die links: total bandwidth and one-hop latency."""

    topology: str = "crossbar"
    bandwidth_bytes_per_s: BytesPerS | None = Field(None, alias="bandwidth")
    latency_s: Seconds | None = Field(None, alias="latency")


class Node(Spec):
    """The second level: how many chips the links join, and what each has to the chips of other nodes."""

    chips: Count
    bandwidth_bytes_per_s: BytesPerS | None = Field(None, alias="bandwidth")
    latency_s: Seconds | None = Field(None, alias="latency")


class Link(Spec):
    """Links to other chips. ``bandwidth`` is per direction and chip, summed over its links."""

    topology: Literal["all-to-all", "ring", "mesh", "torus", "switch"] = "all-to-all"
    bandwidth_bytes_per_s: BytesPerS = Field(alias="bandwidth")
    latency_s: Seconds | None = Field(None, alias="latency")
    links: Count | None = None
    node: Node | None = None


class Host(Spec):
    """Host interface; bandwidth per direction."""

    interface: str
    bandwidth_bytes_per_s: BytesPerS | None = Field(None, alias="bandwidth")


class Overheads(Spec):
    """Fixed times that no rate explains."""

    launch_s: Seconds | None = Field(None, alias="launch")  # per operator
    step_s: Seconds | None = Field(None, alias="step")  # per model step, on the host


class Power(Spec):
    """Power figures; energies override the defaults of the energy model."""

    tdp_w: Watts | None = Field(None, alias="tdp")
    idle_w: Watts | None = Field(None, alias="idle")
    flop_j: Annotated[dict[str, Joules], _rates("format")] = {}
    dram_byte_j: Joules | None = Field(None, alias="dram_byte")
    sram_byte_j: Joules | None = Field(None, alias="sram_byte")
    link_byte_j: Joules | None = Field(None, alias="link_byte")


class Declared(Spec):
    """Totals a data sheet states; checked against the derived ones when the file loads."""

    peak: PeakTable = {}
    bandwidth_bytes_per_s: BytesPerS | None = Field(None, alias="bandwidth")
    sram_bytes: Bytes | None = Field(None, alias="sram")

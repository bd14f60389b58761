"""Achieved DRAM bandwidth and latency, from a command-level simulation of channels, banks and a scheduler.

``simulate`` runs a trace of bursts; ``generate`` makes the usual patterns. ``efficiency`` tabulates the share of
pin bandwidth over run length, stride, streams and write share from such runs, which is what the ``tile``
fidelity asks for, and ``paged_kv_bandwidth`` reads it for a KV cache whose blocks lie scattered in memory.

The model is ``csrc/sim``; it honours the timings of the device (``dram_spec``) and is checked command by command
in the tests. Not modelled: data hazards between requests to one address (they are neither forwarded nor merged),
refresh postponing, power-down, and the CA bus that two pseudo-channels share beyond its occupancy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npusim.cost.dram_map import FIELD_NAMES, AddressMap, ordered_map
from npusim.cost.dram_spec import Controller, MemorySpec, config_fields, load_memory, ticks_per_clock
from npusim.errors import InputError, Problem, unknown_name

if TYPE_CHECKING:
    from npusim._sim import _Struct

COMMANDS = ("ACT", "PRE", "PREab", "RD", "WR", "REFab", "REFpb")

PATTERNS = ("sequential", "strided", "chunked", "random", "streams")

Ints = NDArray[np.int64]

# Consecutive bytes of one device where devices take turns by division instead of address bits.
DEVICE_PAGE = 4096

# Idle time is simulated refresh by refresh, so it has to end.
MAX_ARRIVAL_S = 10.0


@dataclass(frozen=True)
class CommandLog:
    """Commands in time order per channel.

    Args:
        tick: when each starts; ``tick_s`` seconds each.
        kind: index into ``COMMANDS``.
        bank: bank index over all channels, pseudo-channels, SIDs, groups (banks of a group are neighbours); the
            first bank of the pseudo-channel for commands to all banks.
        row: the row that an activate opens or that is open, −1 for none.
        tick_s: seconds per tick.
        ticks_per_clock: ticks per command clock.
    """

    tick: Ints
    kind: Ints
    bank: Ints
    row: Ints
    tick_s: float
    ticks_per_clock: int


@dataclass(frozen=True)
class DramRun:
    """What a trace took. The times per request and ``commands`` are None unless asked for.

    Args:
        time_s: from tick 0 to the end of the last burst.
        moved_bytes: bursts × burst bytes.
        peak_bytes_per_s: pin bandwidth of the devices.
        hits: bursts to a row that was open for an earlier one.
        closed: bursts whose row was opened in a precharged bank.
        conflicts: bursts for which another row had to be closed first.
        accepted_s: when each request entered a queue of its channel.
        done_s: when its burst had left the bus.
        latency_s: from arrival (from acceptance, without arrivals) to ``done_s``.
    """

    time_s: float
    moved_bytes: int
    peak_bytes_per_s: float
    reads: int
    writes: int
    hits: int
    closed: int
    conflicts: int
    activates: int
    precharges: int
    refreshes: int
    accepted_s: NDArray[np.float64] | None = None
    done_s: NDArray[np.float64] | None = None
    latency_s: NDArray[np.float64] | None = None
    commands: CommandLog | None = None

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Achieved bandwidth; 0 for an empty trace."""
        return self.moved_bytes / self.time_s if self.time_s else 0.0

    @property
    def efficiency(self) -> float:
        """Achieved share of pin bandwidth."""
        return self.bandwidth_bytes_per_s / self.peak_bytes_per_s


def simulate(
    memory: MemorySpec | str,
    addresses: ArrayLike,
    *,
    writes: ArrayLike | None = None,
    arrivals_s: ArrayLike | None = None,
    controller: Controller | None = None,
    mapping: AddressMap | None = None,
    devices: int = 1,
    latencies: bool = False,
    log: bool = False,
) -> DramRun:
    """Runs a trace of bursts to completion.

    Args:
        memory: a device or its name in the catalog.
        addresses: byte address of every burst, in the order in which they are issued; the bits below the burst
            size are ignored. ``bursts`` splits larger requests.
        writes: True for writes; reads when absent.
        arrivals_s: non-decreasing arrival times, at most 10 s; all wait from the start when absent.
        controller: queues, refresh and front end; a 64-entry window when absent.
        mapping: address map; ``default_map`` when absent.
        devices: devices in parallel (stacks, chips). A number that is no power of two takes turns by 4 KiB.
        latencies: return the times of every request.
        log: return every command.

    Raises:
        InputError: an address outside the map, lengths that differ, arrivals that decrease, or a device whose
            timings contradict one another.
    """
    spec = load_memory(memory) if isinstance(memory, str) else memory
    controller = controller or Controller()
    trace = _integers("addresses", addresses)
    slots = devices
    if mapping is None:
        mapping, slots = default_map(spec, devices), 1 << (devices - 1).bit_length()
        trace = trace if slots == devices else _over_devices(trace, spec, devices)
    n = trace.size
    kinds = None if writes is None else np.ascontiguousarray(_same_length("writes", writes, n), dtype=np.uint8)
    tick_s = spec.geometry.clock_s / ticks_per_clock(spec)
    arrivals = None if arrivals_s is None else _arrival_ticks(arrivals_s, n, tick_s)
    times = np.empty((2, n), np.int64) if latencies else None
    fields = config_fields(spec, controller, slots)
    result, commands = _run(fields, mapping, (trace, kinds, arrivals), times, log)
    per_request = {}
    if times is not None:
        waited = times[1] - (times[0] if arrivals is None else arrivals)
        per_request = {"accepted_s": times[0] * tick_s, "done_s": times[1] * tick_s, "latency_s": waited * tick_s}
    return DramRun(
        time_s=result.end_tick * tick_s,
        moved_bytes=n * spec.geometry.burst_bytes,
        peak_bytes_per_s=spec.bandwidth_bytes_per_s * devices,
        **{name: getattr(result, name) for name in _COUNTS},
        **per_request,
        commands=None if commands is None else _command_log(commands, tick_s, ticks_per_clock(spec)),
    )


def _command_log(rows: Ints, tick_s: float, per_clock: int) -> CommandLog:
    tick, kind, bank, row = rows.T
    return CommandLog(tick, kind, bank, row, tick_s, per_clock)


_COUNTS = ("reads", "writes", "hits", "closed", "conflicts", "activates", "precharges", "refreshes")


def default_map(spec: MemorySpec, devices: int = 1) -> AddressMap:
    """The map ``simulate`` uses: 256-byte interleaving, with channel, pseudo-channel and banks hashed by the row.

    A number of devices that is no power of two is selected by the address bits above one device (see ``simulate``).

    Raises:
        InputError: a size of the device that is no power of two, or not 1 to 1024 devices.
    """
    if isinstance(devices, bool) or not isinstance(devices, int) or not 1 <= devices <= 1024:
        raise InputError(Problem(f"devices = {devices!r} is out of range", "devices", allowed="1 to 1024"))
    hashed = ("ch", "pc", "bg", "ba")
    slots = 1 << (devices - 1).bit_length()
    if slots == devices:
        return ordered_map(spec, devices=devices, hashed=hashed)
    one = ordered_map(spec, hashed=hashed)
    width, low = slots.bit_length() - 1, (spec.geometry.channels - 1).bit_length()
    device = (one.limit.bit_length() - 1, width, FIELD_NAMES.index("channel"), low)
    return AddressMap((*one.slices, device), one.limit * slots)


def _over_devices(trace: Ints, spec: MemorySpec, devices: int) -> Ints:
    """Deals out pages of 4 KiB to a number of devices that is no power of two: device above, place below."""
    capacity = spec.geometry.capacity_bytes
    if trace.size and not 0 <= trace.min() <= trace.max() < capacity * devices:
        raise InputError(
            Problem("an address is outside the memory", "addresses", allowed=f"0 to {capacity * devices - 1}")
        )
    page, within = np.divmod(trace, DEVICE_PAGE)
    local, device = np.divmod(page, devices)
    return np.asarray(device * capacity + local * DEVICE_PAGE + within, dtype=np.int64)


def decode(mapping: AddressMap, addresses: ArrayLike) -> dict[str, NDArray[np.int32]]:
    """Fields of byte addresses, by name (``FIELD_NAMES``). Raises InputError for an address outside the map."""
    from npusim._sim import ffi, lib

    trace = _integers("addresses", addresses)
    out = np.empty((len(FIELD_NAMES), trace.size), np.int32)
    status = lib.nps_dram_decode(c_map(mapping), trace.size, ffi.from_buffer(trace), ffi.from_buffer(out))
    _raise(status, mapping)
    return dict(zip(FIELD_NAMES, out, strict=True))


def bursts(memory: MemorySpec | str, starts: ArrayLike, size_bytes: int) -> Ints:
    """Byte addresses of the bursts that requests of ``size_bytes`` at ``starts`` touch, in order.

    Raises:
        InputError: a size below 1 or a negative address.
    """
    spec = load_memory(memory) if isinstance(memory, str) else memory
    burst = spec.geometry.burst_bytes
    first = _integers("starts", starts) // burst
    if size_bytes < 1 or (first.size and first.min() < 0):
        raise InputError(Problem("requests need a size of at least one byte and addresses of at least 0"))
    last = (_integers("starts", starts) + (size_bytes - 1)) // burst
    counts = last - first + 1
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.asarray((np.repeat(first, counts) + within) * burst, dtype=np.int64)


# -- patterns ------------------------------------------------------------------------------------------------


def generate(
    memory: MemorySpec | str,
    pattern: str,
    requests: int,
    *,
    run_bytes: int = 0,
    stride_bytes: int = 0,
    streams: int = 1,
    write_share: float = 0.0,
    span_bytes: int = 0,
    seed: int = 1,
) -> tuple[Ints, NDArray[np.bool_]]:
    """A trace of bursts: addresses and which of them write.

    Args:
        memory: a device or its name.
        pattern: ``sequential``; ``strided`` (runs of ``run_bytes`` every ``stride_bytes``); ``chunked`` (runs of
            ``run_bytes`` at random multiples of it); ``random`` (single bursts); ``streams`` (``streams``
            sequential walks taking turns, ``run_bytes`` each).
        requests: bursts.
        run_bytes: contiguous bytes per run; one burst when 0.
        stride_bytes: distance between starts of runs; one burst when 0.
        streams: walks that take turns, each in its own part of the span (any pattern).
        write_share: share of runs that write, drawn at random.
        span_bytes: addresses stay below it; the device's capacity when 0.
        seed: of the random draws; equal arguments give equal traces.

    Raises:
        InputError: an unknown pattern or a size out of range.
    """
    spec = load_memory(memory) if isinstance(memory, str) else memory
    if pattern not in PATTERNS:
        raise unknown_name("pattern", pattern, PATTERNS)
    burst = spec.geometry.burst_bytes
    span = (span_bytes or spec.geometry.capacity_bytes) // burst
    run = 1 if pattern == "random" else max(1, run_bytes // burst)
    stride = run if pattern in ("sequential", "streams") else max(1, stride_bytes // burst)
    if requests < 0 or streams < 1 or not 0 <= write_share <= 1 or run * streams > span:
        raise InputError(
            Problem(f"pattern of {requests} bursts in runs of {run} over {streams} streams does not fit {span} bursts")
        )
    rng = np.random.default_rng(seed)
    runs = -(-requests // run)
    turn = np.arange(runs) // streams
    part = span // streams
    if pattern in ("chunked", "random"):
        slot = rng.integers(0, part // run, runs) * run
    else:
        slot = (turn * stride) % (part - run + 1)
    base = (np.arange(runs) % streams) * part + slot
    addresses = (base[:, None] + np.arange(run)).reshape(-1)[:requests] * burst
    writes = np.repeat(rng.random(runs) < write_share, run)[:requests]
    return np.asarray(addresses, dtype=np.int64), writes


# -- efficiency surface ------------------------------------------------------------------------------------------

# Bursts per simulated point, and channels that stand for all where a run falls on any of them alike: more than two
# refresh intervals at full speed.
SURFACE_BURSTS = 1 << 16
SURFACE_CHANNELS = 4
_SHARES = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)
_MAX_RUN = 1 << 20


def efficiency(
    memory: MemorySpec | str,
    run_bytes: ArrayLike,
    *,
    stride_bytes: ArrayLike = 0,
    streams: ArrayLike = 1,
    write_share: ArrayLike = 0.0,
    controller: Controller | None = None,
    devices: int = 1,
) -> NDArray[np.float64]:
    """Share of pin bandwidth that runs of contiguous bytes achieve, elementwise over broadcast arguments.

    Points on a grid (powers of two; six write shares) are simulated when first needed and kept; between them the
    surface is interpolated, linearly in the logarithms of run, stride and streams and in the write share.

    Args:
        memory: a device or its name.
        run_bytes: contiguous bytes per run, at least 1; less than a burst wastes the rest of it.
        stride_bytes: distance between starts of runs of one stream; 0 for runs scattered at random. At most
            ``run_bytes`` means contiguous.
        streams: walks that take turns.
        write_share: share of runs that write, 0 to 1.
        controller: as for ``simulate``.
        devices: devices in parallel.

    Returns:
        float64 in (0, 1], of the broadcast shape. Useful bytes only.

    Raises:
        InputError: a value out of range.
    """
    spec = load_memory(memory) if isinstance(memory, str) else memory
    point = (spec, controller or Controller(), devices)
    asked = np.broadcast_arrays(
        *(np.asarray(x, dtype=np.float64) for x in (run_bytes, stride_bytes, streams, write_share))
    )
    run, stride, count, share = (np.atleast_1d(x).ravel() for x in asked)
    valid = (run >= 1) & (stride >= 0) & (count >= 1) & (count <= 1024) & (share >= 0) & (share <= 1)
    if not valid.all():
        raise InputError(
            Problem(
                "efficiency() arguments out of range",
                allowed="run >= 1, stride >= 0, 1 <= streams <= 1024, 0 <= share <= 1",
            )
        )
    burst = spec.geometry.burst_bytes
    # Bytes of a partly used burst cross the pins all the same.
    useful = np.minimum(run / burst, 1.0)
    gap = np.where(stride == 0, -1.0, np.log2(np.clip(stride / np.maximum(run, burst), 1.0, 2.0**16)))
    gap = np.where((gap < 0) | (gap > 0), gap, 0.0)
    axes = (
        np.log2(np.clip(run, burst, _MAX_RUN)),
        gap,
        np.log2(count),
        np.interp(share, _SHARES, range(len(_SHARES))),
    )
    return np.asarray((useful * _interpolate(axes, point)).reshape(asked[0].shape))


def _interpolate(
    axes: tuple[NDArray[np.float64], ...], point: tuple[MemorySpec, Controller, int]
) -> NDArray[np.float64]:
    """Multilinear interpolation between simulated corners of the unit cell around every query."""
    low = [np.floor(axis).astype(int) for axis in axes]
    # Scattered runs (gap −1) are no neighbours of stride 1: their cell has no width.
    part = [axis - floor for axis, floor in zip(axes, low, strict=True)]
    total = np.zeros(axes[0].shape)
    for corner in range(1 << len(axes)):
        up = [corner >> i & 1 for i in range(len(axes))]
        weight = np.prod([p if u else 1 - p for p, u in zip(part, up, strict=True)], axis=0)
        needed = np.flatnonzero(weight)
        if needed.size:
            keys = np.stack([floor[needed] + u for floor, u in zip(low, up, strict=True)], axis=1)
            unique, inverse = np.unique(keys, axis=0, return_inverse=True)
            values = np.array([_surface_point(*point, *map(int, key)) for key in unique])
            total[needed] += weight[needed] * values[inverse.reshape(-1)]
    return total


@lru_cache(maxsize=65536)
def _surface_point(
    spec: MemorySpec, controller: Controller, devices: int, run_log2: int, gap: int, streams_log2: int, share: int
) -> float:
    """One simulated point of the surface: run 2^run_log2 bytes, stride 2^gap runs (−1: scattered)."""
    run, streams, g = 1 << run_log2, 1 << streams_log2, spec.geometry
    # Strides select channels, so all of them are there; scattered and contiguous runs load all of them equally.
    if gap <= 0:
        spec, devices = spec.replace({"geometry.channels": min(g.channels, SURFACE_CHANNELS)}), 1
    channels = spec.geometry.channels * devices
    addresses, writes = generate(
        spec,
        "chunked" if gap < 0 else "strided",
        SURFACE_BURSTS * max(1, channels // SURFACE_CHANNELS // 4),
        run_bytes=run,
        stride_bytes=run << max(gap, 0),
        streams=streams,
        write_share=_SHARES[share],
        span_bytes=spec.geometry.capacity_bytes * devices,
    )
    return simulate(spec, addresses, writes=writes, controller=controller, devices=devices).efficiency


def paged_kv_bandwidth(
    memory: MemorySpec | str,
    block_tokens: ArrayLike,
    bytes_per_token: ArrayLike,
    *,
    devices: int = 1,
    streams: int = 1,
    controller: Controller | None = None,
) -> NDArray[np.float64]:
    """Bandwidth in bytes/s at which a paged KV cache is read: block size → run length → bandwidth.

    A block holds ``block_tokens`` consecutive tokens of one sequence and lies anywhere in memory, so a read
    walks runs of block_tokens × bytes_per_token at random places.

    Args:
        memory: a device or its name.
        block_tokens: tokens per block (vLLM's default is 16).
        bytes_per_token: contiguous bytes of one token in a block: of one layer, and of K or V alone where they
            lie apart (2 × kv_heads × head_dim × bytes per element when they lie together).
        devices: stacks or chips in parallel.
        streams: sequences read in turns.
        controller: as for ``simulate``.

    Raises:
        InputError: a value below 1.
    """
    spec = load_memory(memory) if isinstance(memory, str) else memory
    run = np.multiply(np.asarray(block_tokens, dtype=np.float64), np.asarray(bytes_per_token, dtype=np.float64))
    share = efficiency(spec, run, streams=streams, controller=controller, devices=devices)
    return np.asarray(share * (spec.bandwidth_bytes_per_s * devices))


# -- calling the C model -------------------------------------------------------------------------------------------


def _integers(name: str, values: ArrayLike) -> Ints:
    array = np.asarray(values)
    if array.size == 0:
        return np.zeros(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(Problem(f"{name} must be a one-dimensional array of integers", name))
    if array.dtype == np.uint64 and array.max() > np.iinfo(np.int64).max:
        raise InputError(Problem(f"{name} hold a value that needs 64 bits", name))
    return np.ascontiguousarray(array, dtype=np.int64)


def _same_length(name: str, values: ArrayLike, n: int) -> NDArray[Any]:
    array = np.asarray(values)
    if array.shape != (n,) or array.dtype.kind not in "biu":
        raise InputError(Problem(f"{name} must be {n} booleans, one per address", name))
    return np.asarray(array != 0)


def _arrival_ticks(arrivals_s: ArrayLike, n: int, tick_s: float) -> Ints:
    array = np.asarray(arrivals_s, dtype=np.float64)
    if array.shape != (n,) or not np.isfinite(array).all() or (array < 0).any() or (array > MAX_ARRIVAL_S).any():
        raise InputError(
            Problem(f"arrivals_s must be {n} finite times from 0 to {MAX_ARRIVAL_S:g} seconds", "arrivals_s")
        )
    # A request is seen at the first tick that is not before it; the slack is far below a tick.
    return np.ceil(array / tick_s - 1e-6).astype(np.int64)


def c_map(mapping: AddressMap) -> _Struct:
    """The map as the C model takes it. Raises InputError for too many slices."""
    from npusim._sim import ffi, lib

    if len(mapping.slices) > lib.NPS_MAX_SEGMENTS:
        raise InputError(Problem("the address map has too many slices", allowed=f"at most {lib.NPS_MAX_SEGMENTS}"))
    out = ffi.new("nps_dram_map *")
    out.segments = len(mapping.slices)
    for i, piece in enumerate(mapping.slices):
        columns: Any = (out.shift, out.width, out.field, out.position)
        for column, value in zip(columns, piece, strict=True):
            column[i] = value
    out.third_bit, out.top_row, out.limit = mapping.third_bit, mapping.top_row, mapping.limit
    return out


def _run(
    fields: dict[str, int],
    mapping: AddressMap,
    trace: tuple[Ints, NDArray[np.uint8] | None, Ints | None],
    times: NDArray[np.int64] | None,
    log: bool,
) -> tuple[_Struct, Ints | None]:
    from npusim._sim import ffi, lib

    config = ffi.new("nps_dram_config *")
    for name, value in fields.items():
        if value >= 2**31:
            raise InputError(Problem(f"{name} = {value} ticks is too long"))
        setattr(config, name, value)
    n = trace[0].size
    size = lib.nps_dram_workspace(config, n)
    if size < 0:
        raise InputError(
            Problem(
                "the memory's geometry or timings are out of bounds or contradict one another",
                allowed="at most 256 banks and 64 bank groups per channel, 1024 channels, tRC >= tRAS, "
                "room between refreshes",
            )
        )
    workspace = np.empty(-(-size // 8), np.int64)  # of structures that need 8-byte alignment

    def pointer(array: NDArray[Any] | None) -> object:
        return ffi.NULL if array is None else ffi.from_buffer(array)

    rows = 4 * n + 1024 if log else 0
    addresses, writes, arrivals = (pointer(x) for x in trace)
    start, done = (ffi.NULL, ffi.NULL) if times is None else (pointer(times[0]), pointer(times[1]))
    layout, space, result = c_map(mapping), pointer(workspace), ffi.new("nps_dram_result *")
    while True:
        commands = np.empty((rows, 4), np.int64) if log else None
        place = pointer(commands)
        status = lib.nps_dram_run(
            config, layout, n, addresses, writes, arrivals, start, done, place, rows, space, size, result
        )
        _raise(status, mapping)
        if result.log_count <= rows or commands is None:
            return result, None if commands is None else commands[: result.log_count]
        rows = result.log_count  # long idle times are full of refreshes: once more with room for them


def _raise(status: int, mapping: AddressMap) -> None:
    from npusim._sim import lib

    if status == lib.NPS_EADDRESS:
        raise InputError(Problem("an address is outside the memory", "addresses", allowed=f"0 to {mapping.limit - 1}"))
    if status == lib.NPS_EARRIVAL:
        raise InputError(Problem("arrivals decrease", "arrivals_s", allowed="non-decreasing times"))
    if status == lib.NPS_EOVERFLOW:
        raise InputError(Problem("the trace is too long", allowed="fewer than 2^31 bursts"))
    if status != lib.NPS_OK:
        raise InputError(Problem("the address map does not fit the memory", hint="make it from the same device"))

"""The DRAM model where the answer is known: idle latencies, refresh, turnaround, maps, the surface, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npusim.chip import load_chip
from npusim.chip_parts import Memory
from npusim.cost import dram
from npusim.cost.dram import bursts, decode, default_map, efficiency, generate, paged_kv_bandwidth, simulate
from npusim.cost.dram_map import AddressMap, ordered_map, rngd_map
from npusim.cost.dram_spec import (
    Controller,
    MemorySpec,
    config_fields,
    load_memory,
    memory_names,
    memory_of,
    read_memory,
)
from npusim.errors import InputError

QUIET = Controller(refresh="none")


def clocks(spec: MemorySpec, *names: str) -> int:
    return sum(spec.clocks(name) for name in names)


def burst(spec: MemorySpec) -> int:
    return spec.geometry.burst_length // spec.geometry.bits_per_clock


def same_bank(spec: MemorySpec, row: int, column: int = 0) -> int:
    """An address in bank 0 of everything under a plain map."""
    return (row * spec.geometry.columns + column) * spec.geometry.burst_bytes


def plain(spec: MemorySpec) -> AddressMap:
    """Columns lowest, then rows, so that consecutive pages are rows of one bank."""
    return ordered_map(spec, "ch pc ra bg ba ro co")


# -- catalog -----------------------------------------------------------------------------------------------------


def test_catalog_holds_the_standards():
    assert memory_names() == ["gddr6", "hbm2", "hbm3", "hbm3e", "hbm4", "lpddr5"]


@pytest.mark.parametrize(
    ("name", "bandwidth", "capacity", "burst_bytes"),
    [
        ("hbm2", 256e9, 8 << 30, 32),
        ("hbm3", 819.2e9, 16 << 30, 32),
        ("hbm3e", 1228.8e9, 32 << 30, 32),
        ("hbm4", 2048e9, 32 << 30, 32),
        ("gddr6", 56e9, 1 << 30, 32),
        ("lpddr5", 12.8e9, 1 << 30, 32),
    ],
)
def test_devices_derive_their_bandwidth(name, bandwidth, capacity, burst_bytes):
    spec = load_memory(name)
    assert spec.bandwidth_bytes_per_s == pytest.approx(bandwidth)
    assert spec.geometry.capacity_bytes == capacity
    assert spec.geometry.burst_bytes == burst_bytes


@pytest.mark.parametrize("name", memory_names())
def test_every_figure_states_its_source(name):
    spec = load_memory(name)
    for part in ("geometry", "commands", "timing"):
        model = getattr(spec, part)
        for field in model.model_fields_set:
            key = type(model).model_fields[field].alias or field
            assert spec.provenance(part, key).source != "this file", f"{part}.{key}"


def test_timings_of_the_facts_are_met_in_clocks(shared):
    """Every cycle count of the published tables comes back from the file's times."""
    import json

    facts = json.loads((shared / "data" / "facts" / "memories.json").read_text())["memories"]
    names = {"HBM2 2.0 Gb/s": "hbm2", "HBM3 6.4 Gb/s": "hbm3", "HBM4 8 Gb/s": "hbm4"}
    names |= {"GDDR6 14 Gb/s x16": "gddr6", "LPDDR5-6400 x16": "lpddr5"}
    spelling = {"nRCD": "tRCDRD", "nRPab": "tRPab", "nRTPL": "tRTP", "nRFCab": "tRFC"}
    spelling |= {f"n{a}{b}": f"t{a}_{b}" for a in ("CCD", "RRD", "WTR") for b in "SLR"}
    # Refresh-to-activate follows max(3 clocks, 8 ns) instead of the table's clocks.
    other = {"nREFI", "nRREFD", "nBL_min", "nBL_max", "nAAD"}
    compared = 0
    for fact in facts:
        if fact["mem"] in names:
            spec = load_memory(names[fact["mem"]])
            for key, value in fact["timing_cycles"].items():
                if key.startswith("n") and key not in other:
                    assert spec.clocks(spelling.get(key, "t" + key[1:])) == value, (fact["mem"], key)
                    compared += 1
    assert compared > 80


def test_hbm3e_keeps_the_nanoseconds_of_hbm3():
    hbm3, hbm3e = load_memory("hbm3"), load_memory("hbm3e")
    for name in ("tCL", "tRCDRD", "tRP", "tRAS", "tFAW", "tWR"):
        times = [s.clocks(name) * s.geometry.clock_s for s in (hbm3, hbm3e)]
        assert times[1] == pytest.approx(times[0], abs=hbm3e.geometry.clock_s)
        assert hbm3e.provenance("timing", name).status == "derived"
    assert hbm3e.clocks("tCL") == 30
    assert hbm3e.clocks("tCCD_S") == 2


def test_a_chips_own_geometry_replaces_the_catalogs():
    spec, stacks = memory_of(load_chip("rebel-quad").memory)
    assert stacks == 4
    assert spec.bandwidth_bytes_per_s * stacks == pytest.approx(4.8e12)
    assert spec.clocks("tCL") == 30  # 12.5 ns at 9.375 Gbit/s is 29.3 clocks


def test_unknown_memory_kind_names_what_there_is():
    with pytest.raises(InputError, match="hbm3"):
        memory_of(Memory(kind="hbm33", capacity=1e9))


# -- latency -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", memory_names())
def test_idle_latencies_are_exact(name):
    spec = load_memory(name)
    far = 5e-6
    addresses = [same_bank(spec, 0), same_bank(spec, 0, 1), same_bank(spec, 1)]
    run = simulate(spec, addresses, arrivals_s=[0, far, 2 * far], controller=QUIET, mapping=plain(spec), latencies=True)
    closed = clocks(spec, "tRCDRD", "tCL") + burst(spec)
    hit = clocks(spec, "tCL") + burst(spec)
    conflict = clocks(spec, "tRP", "tRCDRD", "tCL") + burst(spec)
    ticks = run.latency_s / spec.geometry.clock_s
    assert ticks == pytest.approx([closed, hit, conflict], abs=1e-6 if spec.commands.pre == 1 else 0.5)
    assert (run.closed, run.hits, run.conflicts) == (1, 1, 1)


def test_conflict_latency_in_half_clocks_is_exact():
    """HBM3 precharges on either edge; from an arrival on a whole clock nothing is rounded."""
    spec = load_memory("hbm3")
    far = 8000 * spec.geometry.clock_s
    run = simulate(
        spec,
        [same_bank(spec, 0), same_bank(spec, 1)],
        arrivals_s=[0, far],
        controller=QUIET,
        mapping=plain(spec),
        latencies=True,
    )
    assert run.latency_s[1] / spec.geometry.clock_s == pytest.approx(clocks(spec, "tRP", "tRCDRD", "tCL") + 2)


def test_idle_write_takes_its_own_latency():
    spec = load_memory("hbm3")
    run = simulate(spec, [0], writes=[True], controller=QUIET, latencies=True)
    assert run.latency_s[0] / spec.geometry.clock_s == pytest.approx(clocks(spec, "tRCDWR", "tCWL") + burst(spec))


# -- turnaround, windows, refresh ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", memory_names())
def test_one_read_then_one_write_and_back(name):
    """Two bursts to one open row: the distance of their commands is tRTW, or CWL + BL + tWTR_L."""
    spec = load_memory(name)
    a, b = same_bank(spec, 0), same_bank(spec, 0, 1)
    longest = spec.geometry.burst_max_clocks or burst(spec)
    for first, distance in (
        (False, clocks(spec, "tRTW")),
        (True, clocks(spec, "tCWL", "tWTR_L") + longest),
    ):
        # The first opens the row alone; one arrives when it is open, the other a clock later.
        arrivals = np.array([0.0, 5e-6, 5e-6 + spec.geometry.clock_s])
        controller = Controller(refresh="none", unified=True, write_queue=1)
        run = simulate(
            spec,
            [a, a, b],
            writes=[first, first, not first],
            arrivals_s=arrivals,
            controller=controller,
            mapping=plain(spec),
            log=True,
        )
        ticks = run.commands.tick[run.commands.kind >= dram.COMMANDS.index("RD")]
        assert (ticks[-1] - ticks[-2]) / run.commands.ticks_per_clock == distance


def test_four_activates_per_window():
    """Reads of one burst each from many banks are bound by tFAW exactly."""
    spec = load_memory("hbm2").replace(
        {"geometry.channels": 1, "geometry.pseudo_channels": 1, "geometry.page": "2 KiB"}
    )
    addresses = np.arange(4000) * int(spec.geometry.page_bytes)
    run = simulate(spec, addresses, controller=QUIET, mapping=ordered_map(spec, "ro ra ba bg ch co"))
    assert run.activates == 4000
    seconds_per_activate = run.time_s / 4000
    assert seconds_per_activate == pytest.approx(15 / 4 * 1e-9, rel=0.07)  # four per 15 clocks of which ACT takes two
    assert seconds_per_activate >= 15 / 4 * 1e-9


@pytest.mark.parametrize("name", memory_names())
def test_refresh_costs_its_share_of_a_stream(name):
    spec = load_memory(name).replace({"geometry.channels": 1})
    addresses, _ = generate(spec, "sequential", 200_000)
    with_refresh, without = (
        simulate(spec, addresses, controller=Controller(refresh=policy)) for policy in ("all-bank", "none")
    )
    lost = 1 - with_refresh.efficiency / without.efficiency
    share = spec.clocks("tRFC") / spec.clocks("tREFI")
    around = sum(spec.clocks(t) for t in ("tRTP", "tRPab", "tRCDRD", "tCL", "tFAW")) / spec.clocks("tREFI")
    assert 0.97 * share <= lost <= share + around  # the last interval is a part of one
    per_bank = simulate(spec, addresses, controller=Controller(refresh="per-bank"))
    assert per_bank.refreshes >= 10 * with_refresh.refreshes
    assert without.refreshes == 0


def test_a_bank_in_refresh_blocks_only_itself():
    spec = load_memory("hbm3")
    addresses, _ = generate(spec, "sequential", 200_000)
    share = {p: simulate(spec, addresses, controller=Controller(refresh=p)).efficiency for p in Controller.REFRESH}
    assert share["all-bank"] < share["per-bank"] <= share["none"]


def test_idle_time_is_full_of_refreshes():
    spec = load_memory("lpddr5")
    run = simulate(spec, [0, 64], arrivals_s=[0, 1e-3], log=True)
    assert run.refreshes == pytest.approx(1e-3 / 3906e-9, abs=1)
    assert run.commands.tick.size == run.activates + run.precharges + run.refreshes + 2


def test_starvation_is_capped():
    """A stream of row hits lets an older request to the bank wait for the capped number of hits only."""
    spec = load_memory("gddr6").replace({"geometry.channels": 1})
    mapping = plain(spec)
    n = 400
    hits = [same_bank(spec, 0, i % spec.geometry.columns) for i in range(n)]
    trace = [*hits[:4], same_bank(spec, 1), *hits[4:]]
    late = {}
    for cap in (0, 16):
        controller = Controller(refresh="none", window=16, hit_cap=cap)
        run = simulate(spec, trace, controller=controller, mapping=mapping, latencies=True)
        late[cap] = np.count_nonzero(run.done_s < run.done_s[4])
    assert late[0] == n
    assert late[16] <= 20


def test_channels_hold_each_other_back_only_behind_a_shared_front_end():
    spec = load_memory("hbm3")
    addresses = np.arange(4096) * 32
    mapping = ordered_map(spec, "ch pc ra ro ba co bg")  # all in one channel
    both = np.concatenate([addresses, addresses + spec.geometry.capacity_bytes // 2])
    alone = simulate(spec, addresses, controller=QUIET, mapping=mapping).time_s
    apart = simulate(spec, both, controller=QUIET, mapping=mapping).time_s
    shared = simulate(spec, both, controller=Controller(refresh="none", front_window=8), mapping=mapping).time_s
    assert apart == pytest.approx(alone, rel=0.01)
    assert shared > 1.9 * alone


# -- laws ----------------------------------------------------------------------------------------------------------


@given(
    st.sampled_from(memory_names()),
    st.sampled_from(dram.PATTERNS),
    st.integers(1, 3000),
    st.sampled_from([32, 256, 4096]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(1, 4),
)
def test_bandwidth_never_exceeds_the_pins(name, pattern, requests, run_bytes, share, streams):
    spec = load_memory(name)
    addresses, writes = generate(
        spec, pattern, requests, run_bytes=run_bytes, stride_bytes=2 * run_bytes, streams=streams, write_share=share
    )
    run = simulate(spec, addresses, writes=writes, latencies=True)
    assert 0 < run.efficiency <= 1
    assert run.reads + run.writes == requests
    assert run.hits + run.closed + run.conflicts == requests
    assert run.time_s == run.done_s.max()
    assert (run.accepted_s <= run.done_s).all()


def test_equal_input_gives_equal_output():
    spec = load_memory("hbm3")
    addresses, writes = generate(spec, "random", 5000, write_share=0.3)
    runs = [simulate(spec, addresses, writes=writes, latencies=True) for _ in range(2)]
    assert runs[0].time_s == runs[1].time_s
    assert (runs[0].done_s == runs[1].done_s).all()


def test_more_devices_share_the_work():
    spec = load_memory("hbm3")
    addresses, _ = generate(spec, "sequential", 1 << 17)
    one, four = (simulate(spec, addresses, devices=d, controller=QUIET) for d in (1, 4))
    assert four.peak_bytes_per_s == 4 * one.peak_bytes_per_s
    assert four.time_s < one.time_s / 3


def test_any_number_of_devices_shares_the_work():
    """Five stacks, as on H100: addresses stay one-to-one and a stream reaches all of them."""
    spec = load_memory("hbm3")
    addresses, _ = generate(spec, "sequential", 1 << 18)
    five, eight = (simulate(spec, addresses, devices=d, controller=QUIET) for d in (5, 8))
    assert five.peak_bytes_per_s == 5 * 819.2e9
    assert 0.9 < five.efficiency <= 1
    assert five.time_s > 1.4 * eight.time_s
    pages = np.arange(40) * dram.DEVICE_PAGE
    spread = dram._over_devices(pages, spec, 5)
    assert np.unique(spread).size == 40
    assert set((spread // spec.geometry.capacity_bytes).tolist()) == set(range(5))


def test_an_empty_trace_takes_no_time():
    run = simulate("hbm3", [], latencies=True, log=True)
    assert (run.time_s, run.bandwidth_bytes_per_s, run.moved_bytes) == (0, 0, 0)
    assert run.latency_s.size == run.commands.tick.size == 0


# -- maps ----------------------------------------------------------------------------------------------------------


def coordinates(mapping: AddressMap, addresses: np.ndarray) -> np.ndarray:
    return np.stack(list(decode(mapping, addresses).values()), axis=1)


SMALL = {"geometry.channels": 4, "geometry.rows": 64}


@pytest.mark.parametrize("name", ["hbm2", "hbm3", "hbm4", "gddr6", "lpddr5"])
@pytest.mark.parametrize("order", ["ro ra ba co bg ch pc co:256B", "rorabgbachpcco", "co ch pc ra bg ba ro"])
@pytest.mark.parametrize("hashed", [(), ("ch", "pc", "bg", "ba", "ra"), ("ba", "bg")])
def test_maps_are_one_to_one(name, order, hashed):
    spec = load_memory(name).replace(SMALL)
    mapping = ordered_map(spec, order, hashed=hashed)
    assert mapping.limit == spec.geometry.capacity_bytes
    addresses = np.arange(0, mapping.limit, spec.geometry.burst_bytes)
    fields = coordinates(mapping, addresses)
    g = spec.geometry
    sizes = (g.channels, g.pseudo_channels, g.sids, g.bank_groups, g.banks, g.rows, g.columns)
    assert (fields.max(axis=0) + 1 == sizes).all()
    assert np.unique(np.ravel_multi_index(fields.T, sizes)).size == addresses.size


def rngd_by_hand(address: int) -> tuple[int, ...]:
    """The published table, bit by bit."""

    def bits(*places: int) -> int:
        return sum((address >> place & 1) << i for i, place in enumerate(places))

    channel = 0
    for low in (9, 13, 17, 21, 25):
        channel ^= bits(low, low + 1, low + 2, low + 3)
    third = address >> 34 & 1
    sid = 2 if third else bits(20)
    row = bits(*range(21, 34)) | (bits(20) if third else bits(35)) << 13
    return (bits(8) << 4 | channel, 0, sid, bits(13, 19), bits(17, 18), row, bits(6, 7, 14, 15, 16))


RNGD = st.integers(0, (48 << 30) - 1)


@given(RNGD)
def test_rngd_map_follows_the_published_table(address):
    fields = coordinates(rngd_map(), np.array([address]))[0]
    assert tuple(fields.tolist()) == rngd_by_hand(address)


def test_rngd_map_is_one_to_one_on_48_gb():
    """Flipping any address bit moves the burst; the image of samples has no collision and fills every size."""
    rng = np.random.default_rng(7)
    addresses = np.unique(rng.integers(0, (48 << 30) >> 6, 400_000)) << 6
    fields = coordinates(rngd_map(), addresses).astype(np.int64)
    sizes = (32, 1, 3, 4, 4, 16384, 32)
    assert (fields.max(axis=0) < sizes).all()
    assert np.prod(sizes) * 64 == 48 << 30
    assert np.unique(np.ravel_multi_index(fields.T, sizes)).size == addresses.size


def test_rngd_map_spreads_a_stream_over_all_channels():
    spec = load_memory("hbm3").lockstep().replace({"geometry.pin_rate": "6 Gbit/s", "geometry.sids": 3})
    addresses = bursts(spec, [0], 8 << 20)
    run = simulate(spec, addresses, mapping=rngd_map(), devices=2)
    assert run.peak_bytes_per_s == pytest.approx(1.536e12)
    assert 0.75 < run.efficiency < 0.95
    # Page-sized strides stay in one channel without the hash; with it they do not.
    strided = np.arange(32_768) * (1 << 13)
    assert np.unique(decode(rngd_map(), strided)["channel"]).size == 16


def test_bursts_cover_requests():
    assert bursts("hbm3", [0, 100], 64).tolist() == [0, 32, 96, 128, 160]
    assert bursts("hbm3", [], 64).size == 0


# -- surface ---------------------------------------------------------------------------------------------------------


def test_surface_equals_the_simulation_on_its_grid(monkeypatch):
    spec = load_memory("hbm2").replace({"geometry.channels": 2})
    monkeypatch.setattr(dram, "SURFACE_BURSTS", 1 << 12)
    dram._surface_point.cache_clear()
    addresses, writes = generate(spec, "chunked", 1 << 12, run_bytes=256, stride_bytes=256, write_share=0.25)
    assert efficiency(spec, 256, write_share=0.25) == simulate(spec, addresses, writes=writes).efficiency
    between = efficiency(spec, [256, 300, 512], write_share=0.25)
    assert min(between[0], between[2]) <= between[1] <= max(between[0], between[2])
    assert efficiency(spec, np.full((2, 3), 1024.0), streams=np.array([1, 2, 4])).shape == (2, 3)
    dram._surface_point.cache_clear()


def test_surface_has_the_known_shape(monkeypatch):
    monkeypatch.setattr(dram, "SURFACE_BURSTS", 1 << 14)
    dram._surface_point.cache_clear()
    spec = load_memory("hbm3").replace({"geometry.channels": 2})
    scattered = efficiency(spec, [32, 256, 1024, 16384])
    assert (np.diff(scattered) > 0).all()
    assert scattered[0] < 0.45 < scattered[3]
    assert efficiency(spec, 4096, stride_bytes=4096) > 0.8  # contiguous
    assert efficiency(spec, 4096, stride_bytes=4096, write_share=0.5) < efficiency(spec, 4096, stride_bytes=4096)
    assert efficiency(spec, 16) == pytest.approx(efficiency(spec, 32) / 2)  # half of every burst is wasted
    assert ((scattered > 0) & (scattered <= 1)).all()
    dram._surface_point.cache_clear()


def test_bigger_kv_blocks_read_faster(monkeypatch):
    monkeypatch.setattr(dram, "SURFACE_BURSTS", 1 << 14)
    dram._surface_point.cache_clear()
    spec = load_memory("hbm3e").replace({"geometry.channels": 2})
    bandwidth = paged_kv_bandwidth(spec, [1, 16, 128], 256)  # one KV head of 128 values in bf16
    assert (np.diff(bandwidth) > 0).all()
    assert bandwidth[-1] <= spec.bandwidth_bytes_per_s
    assert paged_kv_bandwidth(spec, 16, 256, devices=2) > 1.5 * bandwidth[1]
    dram._surface_point.cache_clear()


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: simulate("hbm33", [0]), "did you mean"),
        (lambda: simulate("hbm3", [-1]), "outside the memory"),
        (lambda: simulate("hbm3", [16 << 30]), "outside the memory"),
        (lambda: simulate("hbm3", [0.5]), "integers"),
        (lambda: simulate("hbm3", np.array([2**63], np.uint64)), "64 bits"),
        (lambda: simulate("hbm3", [[0]]), "one-dimensional"),
        (lambda: simulate("hbm3", [0, 0], writes=[True]), "2 booleans"),
        (lambda: simulate("hbm3", [0, 0], arrivals_s=[1.0, 0.5]), "decrease"),
        (lambda: simulate("hbm3", [0], arrivals_s=[-1.0]), "finite"),
        (lambda: simulate("hbm3", [0], arrivals_s=[float("nan")]), "finite"),
        (lambda: simulate("hbm3", [0], mapping=default_map(load_memory("hbm4"))), "does not fit"),
        (lambda: simulate("hbm3", [0], devices=0), "devices"),
        (lambda: simulate("hbm3", [48 << 30], devices=3), "outside the memory"),
        (lambda: simulate(load_memory("hbm3").replace({"geometry.rows": 10_000}), [0]), "power of two"),
        (lambda: Controller(refresh="all bank"), "did you mean"),
        (lambda: Controller(window=0), "window"),
        (lambda: Controller(window=1000), "window"),
        (lambda: Controller(write_low=0.9), "watermarks"),
        (lambda: generate("hbm3", "zigzag", 10), "pattern"),
        (lambda: generate("hbm3", "random", -1), "does not fit"),
        (lambda: generate("hbm3", "random", 10, write_share=2), "does not fit"),
        (lambda: generate("hbm3", "chunked", 10, run_bytes=1 << 40), "does not fit"),
        (lambda: efficiency("hbm3", 0), "out of range"),
        (lambda: efficiency("hbm3", float("nan")), "out of range"),
        (lambda: efficiency("hbm3", 64, write_share=1.5), "out of range"),
        (lambda: bursts("hbm3", [-5], 32), "at least"),
        (lambda: ordered_map(load_memory("hbm3"), "ro co"), "lacks"),
        (lambda: ordered_map(load_memory("hbm3"), "ro ra ba bg ch pc xx"), "address field"),
        (lambda: ordered_map(load_memory("hbm3"), "ro ro ra ba bg ch pc co"), "twice"),
        (lambda: ordered_map(load_memory("hbm3"), "ro ra ba bg ch pc co co:x"), "piece"),
        (lambda: ordered_map(load_memory("hbm3"), hashed=("co",)), "hashed field"),
        (lambda: load_memory("hbm3").replace({"timing.tXYZ": 1}), "memory figure"),
        (lambda: load_memory("hbm3").replace({"speed": 1}), "memory figure"),
        (lambda: load_memory("hbm3").replace({"timing.tCL": "12 GB"}), "unit"),
        (lambda: load_memory("hbm3").replace({"geometry.channel_bits": 3}), "whole bytes"),
        (lambda: simulate(load_memory("hbm3").replace({"timing.tREFI": "100 ns"}), [0]), "room between"),
        (lambda: simulate(load_memory("hbm3").replace({"geometry.bank_groups": 64}), [0]), "out of bounds"),
    ],
)
def test_bad_input_is_explained(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_a_broken_file_names_line_and_column(tmp_path):
    text = (dram_file := tmp_path / "x.yaml") and "format: npusim-memory/1\nname: x\ntitle: X\ngeometry: {banks: -1}\n"
    dram_file.write_text(text)
    with pytest.raises(InputError, match=r"x\.yaml:4:\d+: geometry\.banks"):
        read_memory(dram_file)


def test_the_c_model_refuses_what_python_would_not_send():
    from npusim._sim import ffi, lib

    config, mapping, result = (ffi.new(f"nps_dram_{x} *") for x in ("config", "map", "result"))
    assert lib.nps_dram_workspace(config, 1) == -1
    for name, value in config_fields(load_memory("hbm3"), QUIET).items():
        setattr(config, name, value)
    size = lib.nps_dram_workspace(config, 1)
    assert size > 0
    assert lib.nps_dram_workspace(config, -1) == lib.nps_dram_workspace(config, 2**31) == -1
    space = ffi.from_buffer(np.empty(size, np.uint8))
    trace = ffi.from_buffer(np.zeros(1, np.int64))
    nothing = (ffi.NULL,) * 5
    assert lib.nps_dram_run(config, mapping, 1, trace, *nothing, 0, space, size, result) == lib.NPS_EINVAL
    good = dram.c_map(default_map(load_memory("hbm3")))
    assert lib.nps_dram_run(config, good, 1, trace, *nothing, 0, space, size - 1, result) == lib.NPS_ESPACE
    assert lib.nps_dram_run(config, good, 1, ffi.NULL, *nothing, 0, space, size, result) == lib.NPS_EINVAL
    assert lib.nps_dram_run(config, good, 1, trace, *nothing, 5, space, size, result) == lib.NPS_EINVAL
    assert lib.nps_dram_run(config, good, 1, trace, *nothing, 0, space, size, result) == lib.NPS_OK
    assert result.reads == 1

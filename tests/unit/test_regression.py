"""Are regressions found, and nothing else? On simulated noise, and on records as pytest-benchmark writes them."""

import json

import numpy as np
import pytest

from npusim import regression
from npusim.errors import InputError
from npusim.regression import Record, Timing, compare, paired, read_record, stored
from tests.conftest import SOAK
from tests.unit.noisy_clock import in_order, interleaved, one_after_the_other

TRIALS = 25 if SOAK else 1


def test_the_same_code_raises_at_most_two_alarms_in_a_hundred():
    alarms = [paired("t", *interleaved(seed, 1.0)).verdict != "same" for seed in range(100 * TRIALS)]
    assert sum(alarms) <= 2 * TRIALS


def test_ten_percent_is_found_in_at_least_38_of_40():
    found = [paired("t", *interleaved(seed, 1.1)).verdict == "slower" for seed in range(1000, 1000 + 40 * TRIALS)]
    assert sum(found) >= 38 * TRIALS
    found = [paired("t", *interleaved(seed, 1 / 1.1)).verdict == "faster" for seed in range(1000, 1000 + 40 * TRIALS)]
    assert sum(found) >= 38 * TRIALS


def test_order_is_what_the_verdict_rests_on():
    """The same noise, all of A before all of B: medians alarm often, so the simulation is not an easy one."""
    alarms = 0
    for seed in range(200):
        before, after = one_after_the_other(seed, 1.0)
        alarms += np.median(after) / np.median(before) > 1.1
    assert alarms >= 10


def _stored_verdict(seed, ratio):
    before, after = (Timing(x.min(), float(np.quantile(x, 0.25))) for x in one_after_the_other(seed, ratio))
    return stored("t", before, after).verdict


def test_stored_timings_rarely_alarm_and_find_what_is_large():
    """They cannot do better: the machine may have changed between the two records."""
    assert sum(_stored_verdict(seed, 1.0) == "slower" for seed in range(200)) <= 10
    assert sum(_stored_verdict(seed, 1.2) == "slower" for seed in range(200)) >= 180


def test_the_ratio_is_that_of_the_times():
    """Quiet rounds: 2 s and 3 s in every one."""
    found = paired("t", np.full((5, 2), 2.0), np.full((5, 2), 3.0))

    assert (found.baseline_s, found.current_s, found.verdict) == (2.0, 3.0, "slower")
    assert found.ratio == pytest.approx(1.5) and found.low == pytest.approx(1.5) == pytest.approx(found.high)


@pytest.mark.parametrize("drift", [0.05, -0.05])
def test_drift_cancels(drift):
    """5 % from one timing to the next, 7 times in all."""
    found = paired("t", *in_order(lambda side, place: np.exp(drift * place), 10))

    assert found.verdict == "same" and found.ratio == pytest.approx(1)


def test_a_burst_on_one_timing_is_left_out():
    found = paired("t", *in_order(lambda side, place: 30 if place in (1, 6, 13) else 1, 10))

    assert (found.verdict, found.ratio) == ("same", 1)


def test_both_threshold_and_interval_are_needed():
    quiet, small = np.ones((10, 2)), np.full((10, 2), 1.04)
    unsure = np.repeat([[0.5], [0.6], [1.2], [1.2], [1.2], [2.0]], 2, axis=1)

    assert paired("t", quiet, small).verdict == "same" and paired("t", quiet, small).low > 1
    assert paired("t", quiet[:6], unsure).ratio > 1.05 and paired("t", quiet[:6], unsure).verdict == "same"
    assert paired("t", quiet, small, threshold=1.03).verdict == "slower"


def test_the_verdict_is_the_same_every_time():
    assert paired("t", *interleaved(3, 1.1)) == paired("t", *interleaved(3, 1.1))


def test_stored_needs_the_best_run_to_be_slower_than_a_quarter_of_the_baseline():
    assert stored("t", Timing(1.0, 1.1), Timing(1.2, 1.3)).verdict == "slower"
    assert stored("t", Timing(1.0, 1.5), Timing(1.2, 1.3)).verdict == "same"
    assert stored("t", Timing(1.2, 1.3), Timing(1.0, 1.1)).verdict == "faster"
    assert stored("t", Timing(1.0, 1.0), Timing(1.09, 1.1)).verdict == "same"


MACHINE = {"node": "a", "system": "Linux", "machine": "x86_64", "cpu": {"brand_raw": "X", "count": 2}}


def record_file(folder, name, tests, machine=MACHINE):
    """A file as pytest-benchmark writes it; ``tests`` gives (min, q1) by name."""
    entries = [{"fullname": n, "stats": {"min": t[0], "q1": t[1], "rounds": 9}} for n, t in tests.items()]
    file = folder / name
    file.write_text(json.dumps({"machine_info": machine, "commit_info": {"id": "c0"}, "benchmarks": entries}))
    return file


def test_a_record_is_read(tmp_path):
    record = read_record(record_file(tmp_path, "a.json", {"x::y": (1e-3, 2e-3)}))

    assert record.tests == {"x::y": Timing(1e-3, 2e-3)} and record.commit == "c0"
    assert record.machine["cpu.brand_raw"] == "X" and record.machine["cpu.count"] == "2"


def _record(machine="a", **tests):
    identity = dict.fromkeys(regression._IDENTITY, machine)
    return Record("f.json", identity, "", {n: Timing(t, t) for n, t in tests.items()})


def test_tests_of_one_side_are_listed():
    found = compare(_record(a=1.0, gone=1.0), _record(a=2.0, new=1.0))

    assert (found.only_baseline, found.only_current, found.regressions) == (("gone",), ("new",), ("a",))
    shown = regression.markdown(found)
    assert "only in baseline: gone" in shown and "only in current: new" in shown and "| **slower** |" in shown
    assert "1 slower, 0 faster, 0 the same" in regression.text(found)


def test_another_machine_is_refused_unless_forced():
    with pytest.raises(InputError, match=r"different machines \(node: a and b.*--force"):
        compare(_record("a", x=1.0), _record("b", x=1.0))
    assert "different machines" in compare(_record("a", x=1.0), _record("b", x=1.0), force=True).notes[0]


def test_nothing_in_common_is_an_error():
    with pytest.raises(InputError, match="no test in common"):
        compare(_record(x=1.0), _record(y=1.0))


def test_names_cannot_break_the_table():
    shown = regression.markdown(compare(_record(**{"a|b\n\x1b[31m": 1.0}), _record(**{"a|b\n\x1b[31m": 1.0})))

    assert r"a\|b??[31m" in shown and "\x1b" not in shown

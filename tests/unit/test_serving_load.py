"""Arrivals, lengths, traces and quantiles."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest

from npusim.errors import InputError
from npusim.serving import metrics
from npusim.serving.load import Synthetic, load_trace, parse_arrivals, parse_lengths
from npusim.serving.metrics import Quantiles, gap_quantiles, parse_slo


@pytest.mark.parametrize(("text", "mean", "cv"), [("poisson:4", 0.25, 1.0), ("gamma:2,cv=3", 0.5, 3.0),
                                                  ("gamma:2", 0.5, 2.0), ("uniform:5", 0.2, 0.0)])  # fmt: skip
def test_gaps_have_their_mean_and_spread(text: str, mean: float, cv: float):
    gaps = parse_arrivals(text).gaps(np.random.default_rng(0), 200_000)
    assert gaps.mean() == pytest.approx(mean, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.03, abs=1e-9)


@pytest.mark.parametrize(("text", "mean", "low", "high"), [
    ("512", 512, 512, 512), ("uniform:10-20", 15, 10, 20), ("exponential:300", 300, 1, 4200),
    ("lognormal:1000,cv=0.5", 1000, 1, 9100), ("lognormal:1000", 1000, 1, 37200),
])  # fmt: skip
def test_lengths_have_their_mean_and_range(text: str, mean: float, low: int, high: int):
    lengths = parse_lengths(text, "input")
    drawn = lengths.draw(np.random.default_rng(0), 200_000)
    assert drawn.mean() == pytest.approx(mean, rel=0.01)
    assert low <= drawn.min() and drawn.max() <= lengths.longest <= high


def test_synthetic_requests_come_in_chunks_of_one_stream(monkeypatch: pytest.MonkeyPatch):
    source = Synthetic(parse_arrivals("poisson:5"), parse_lengths("uniform:1-100", ""), parse_lengths(8, ""), 50_000,
                       7, users=3, prefix_groups=4, prefix_tokens=64)  # fmt: skip
    chunks = list(source.chunks())
    assert sum(len(c) for c in chunks) == 50_000 and len(chunks) > 1
    times = np.concatenate([c.arrival_s for c in chunks])
    assert np.all(np.diff(times) >= 0) and times[-1] == pytest.approx(10_000, rel=0.02)
    first = chunks[0]
    units = np.diff(first.hash_ends, prepend=0)
    assert units.tolist() == (np.minimum(first.input_tokens, 64) // 16).tolist()
    starts = first.hashes[(first.hash_ends - units)[units > 0]]
    assert set(starts.tolist()) == {0, 5, 10, 15}  # group times the units of a prefix and one
    assert set(first.user.tolist()) == {0, 1, 2}


def test_traces_are_read(tmp_path: Path):
    text = "arrival_s,input_tokens,output_tokens,hash_ids,user,priority\n"
    text += "0,100,5,1 2,ann,1\n0 days 00:00:01.5,70,6,1,bob,0\n"
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode()))
    trace = load_trace(tmp_path / "t.csv.gz", unit_tokens=32)
    r = trace.requests
    assert r.arrival_s.tolist() == [0, 1.5] and r.output_tokens.tolist() == [5, 6]
    assert r.hash_ends.tolist() == [2, 3] and r.hashes.tolist() == [1, 2, 1]
    assert (trace.users, trace.unit_tokens, trace.longest) == (2, 32, (100, 6))
    assert r.priority.tolist() == [1, 0]


def test_traces_from_other_programs_are_read(tmp_path: Path):
    """A byte order mark, times since 1970, blanks after commas, empty lines at the end."""
    file = tmp_path / "t.csv"
    lines = ("arrival_s, input_tokens, output_tokens", "1700000000.5, 10, 5", "1700000002, 7, 1e1", "", "")
    file.write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    r = load_trace(file).requests
    assert r.arrival_s.tolist() == [0, 1.5] and r.output_tokens.tolist() == [5, 10]


BAD_TRACES = [
    ("arrival_s,input_tokens\n0,1\n", "output_tokens"),
    ("arrival_s,input_tokens,output_tokens\n", "no request"),
    ("arrival_s,input_tokens,output_tokens\n-1,1,1\n", r":2:1: arrival_s '-1'"),
    ("arrival_s,input_tokens,output_tokens\n3,1,1\n2,1,1\n", r":3:1: arrival_s 2 is before"),
    ("arrival_s,input_tokens,output_tokens\n0,1,1\nnan,1,1\n", r":3:1: arrival_s 'nan'"),
    ("arrival_s,input_tokens,output_tokens\n0,0,1\n", "input_tokens '0'"),
    ("arrival_s,input_tokens,output_tokens\n0,5,x\n", "output_tokens 'x'"),
    ("arrival_s,input_tokens,output_tokens\n0,5\n", "output_tokens ''"),
    ("arrival_s,input_tokens,output_tokens,hash_ids\n0,5,1,a b\n", "hash_ids"),
    ("arrival_s,input_tokens,output_tokens\n0,5,1e300\n", "output_tokens"),
    ("arrival_s,input_tokens,output_tokens\n\n\n", "no request"),
    ("", "no request"),
    (
        "arrival_s,input_tokens,output_tokens\n0,5,1\n\n1,-3,1\n",
        r":4:3: input_tokens '-3'; a whole number, 1 to 16777216",
    ),
    ("arrival_s,input_tokens,output_tokens\n0,5.5,1\n", "a whole number"),
    ("arrival_s,input_tokens,output_tokens\n1e300,5,1\n", r"0 to 1e\+10|0 to 10000000000"),
    ("arrival_s,input_tokens,output_tokens,arrival_s\n0,5,1,2\n", "twice"),
    ("arrival_s,input,output_tokens\n0,5,1\n", "the file has: arrival_s, input, output_tokens"),
    ("arrival_s,input_tokens,output_tokens,hash_ids\n0,5,1,1\n2,5,1,9999999999999999999\n", ":3:7: hash_ids"),
]


@pytest.mark.parametrize(("text", "message"), BAD_TRACES)
def test_bad_traces_are_refused_with_their_line(tmp_path: Path, text: str, message: str):
    file = tmp_path / "bad.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        load_trace(file)


@pytest.mark.parametrize("text", ["poisson", "poisson:0", "poisson:-1", "poisson:nan", "gamma:1,cv=0", "closed:0",
                                  "burst:3", "poisson:1,cv=2", "closed:1e3", "", "poisson:1e300",
                                  "poisson:1e-9", "5"])  # fmt: skip
def test_bad_arrivals_are_refused(text: str):
    with pytest.raises(InputError):
        parse_arrivals(text)


@pytest.mark.parametrize("text", ["0", "-5", "uniform:9-3", "uniform:0-3", "normal:5", "exponential:0",
                                  "exponential:5,cv=1", "lognormal:1e99", "99999999999"])  # fmt: skip
def test_bad_lengths_are_refused(text: str):
    with pytest.raises(InputError):
        parse_lengths(text, "input")


def test_slo_is_read():
    slo = parse_slo("ttft=450ms,tpot=0.04s,attainment=95%")
    assert (slo.ttft_s, slo.tpot_s, slo.attainment) == (0.45, 0.04, 0.95)
    met = slo.met(np.array([0.4, 0.5, 0.4]), np.array([0.05, 0.01, math.nan]), np.ones(3))
    assert met.tolist() == [False, False, True]


@pytest.mark.parametrize("text", ["", "ttft", "ttft=0ms", "ttft=-1s", "ttft=1s,ttft=2s", "speed=1", "attainment=0.9",
                                  "ttft=1s,attainment=2", "ttft=1s,attainment=1s", "ttft=10%",
                                  "ttft=450", "ttft=1e3ms", "ttft=1.2.3s", "ttft=1s,attainment=101%",
                                  "ttft=99999999999s"])  # fmt: skip
def test_bad_slo_is_refused(text: str):
    with pytest.raises(InputError):
        parse_slo(text)


def test_quantiles_are_exact_and_beyond_a_million_within_their_bins(monkeypatch: pytest.MonkeyPatch):
    values = np.random.default_rng(0).lognormal(0, 2, 50_000)
    exact = Quantiles()
    exact.add(np.append(values, math.nan))
    assert exact.at(0.99) == np.sort(values)[math.ceil(0.99 * 50_000) - 1]
    monkeypatch.setattr(metrics, "EXACT", 10_000)
    sketch = Quantiles()
    for part in np.split(values, 10):
        sketch.add(part)
    for q in metrics.QUANTILES:
        assert sketch.at(q) == pytest.approx(exact.at(q), rel=0.001)
    assert sketch.to_dict()["mean"] == pytest.approx(values.mean())
    assert Quantiles().to_dict()["p50"] is None


def test_gap_quantiles_come_from_their_bins():
    gaps = np.zeros(4608, dtype=np.int64)
    gaps[128 * 10 + 64] = 90  # 2^-10 · 1.5 s
    gaps[128 * 14] = 10
    found = gap_quantiles(gaps, 1.0)
    assert found["p50"] == pytest.approx(1.5 / 1024, rel=0.004) and found["p99"] == pytest.approx(2.0**-6, rel=0.004)
    assert found["mean"] == 0.01
    assert gap_quantiles(np.zeros(4608, dtype=np.int64), 0.0)["p50"] is None


@pytest.mark.parametrize(("text", "hint"), [("tfft=450ms", "did you mean 'ttft'"), ("ttft=450", "write ttft=450ms")])
def test_a_mistaken_slo_is_told_what_was_meant(text: str, hint: str):
    with pytest.raises(InputError, match=hint):
        parse_slo(text)

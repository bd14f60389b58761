"""The comparison with other libraries: adapters compute the same, verdicts add up, and nothing is left out silently."""

import dataclasses
import itertools
import json
from functools import partial

import numpy as np
import pytest

import npukernels as nk
from bench import peaks
from bench.peers import __main__ as command
from bench.peers import others, products, report
from bench.peers.adapters import Installed, installed, runners
from bench.peers.bars import BARS, Bar, judge
from bench.peers.problem import Peer, Runner
from bench.peers.suite import OPS, label, problems
from bench.peers.timing import Result, interleaved, measure
from npusim.errors import Finding, InputError

pytestmark = pytest.mark.skipif(not nk.native_available(), reason="compares compiled kernels")

SMALL = {
    "gemm NN": partial(products.gemm_problem, (70, 7, 33), "NN"),
    "gemm NT": partial(products.gemm_problem, (70, 7, 33), "NT"),
    "gemm packed": partial(products.gemm_problem, (5, 40, 33), "packed"),
    "bf16": partial(products.half_problem, (70, 7, 33), "bf16"),
    "fp16": partial(products.half_problem, (70, 7, 33), "fp16"),
    "u8 s8": partial(products.qgemm_problem, (70, 16, 32), "u8 × s8"),
    "u8 s7": partial(products.qgemm_problem, (70, 16, 32), "u8 × s7"),
    "s8 s8": partial(products.qgemm_problem, (70, 16, 32), "s8 × s8"),
    "u8 u8": partial(products.qgemm_problem, (70, 16, 32), "u8 × u8"),
    "W4 int8": partial(products.weight_gemm_problem, (5, 64, 128), 32, "int8"),
    "W4 fp32": partial(products.weight_gemm_problem, (5, 64, 128), 32, "fp32"),
    "mxfp8": partial(products.block_gemm_problem, (5, 64, 128)),
    "conv2d": partial(products.conv_problem, (9, 8, 4, 8, 3)),
    "depthwise": partial(products.depthwise_problem, (9, 8, 4, 3)),
    "prefill": partial(others.attention_problem, 4, 2, 40, causal=True),
    "decode": partial(others.attention_problem, 4, 2, 40, causal=False),
    **{op: partial(others.row_problem, op, 20, 48, "in cache") for op in (*others.NORMS, *others.ELEMENTS)},
    "rope": partial(others.rope_problem, 300, 2),
    "encode": partial(others.encode_problem, "fp8", 1000),
    "decode e5m2": partial(others.decode_problem, "fp8_e5m2", 1000),
}
# Without VNNI these add pairs of products in 16 bits, which saturate.
SATURATING = ("onnxruntime", "torch fbgemm", "torch onednn")
FOUND = installed()


@pytest.mark.parametrize("name", SMALL)
def test_installed_peers_compute_the_same(name):
    problem = SMALL[name]()
    problem.verify(problem.ours())
    found, refused = runners(problem, FOUND.peers)
    assert not refused
    for peer, runner in found.items():
        if name != "u8 s8" or peer not in SATURATING:
            assert problem.right(runner.read(runner.run())), f"{peer}: {problem.judge.error(runner.read(runner.run()))}"


@pytest.mark.parametrize("name", SMALL)
def test_one_wrong_row_is_seen(name):
    problem = SMALL[name]()
    output = np.array(problem.ours())
    last = output[:, :, -1] if name == "prefill" else output[-1:]
    last[...] = last + 3
    with pytest.raises(Finding):
        problem.verify(output)
    assert not problem.right(output)


def test_large_operands_repeat_the_golden_rows():
    problem = products.gemm_problem((200, 8, 16), "NN")
    assert len(problem.judge.index) == 64 and problem.judge.index[-1] == 199
    expected = problem.inputs["a"].astype(np.float64) @ problem.inputs["b"]
    assert np.allclose(problem.judge.case.expected, expected[problem.judge.index], rtol=1e-12)


def test_missing_peers_are_listed():
    def absent():
        raise ImportError("no module named nowhere")

    found = installed((Peer("nowhere", absent, {}), Peer("here", lambda: "1.0", {})))
    assert [peer.name for peer in found.peers] == ["here"]
    heading = report.heading(found)
    assert "nowhere: MISSING, no module named nowhere" in heading and "here: 1.0" in heading


def test_peers_that_cannot_are_listed():
    def refuse(problem):
        raise RuntimeError("not this shape\nmore")

    def break_down():
        raise ValueError("at run time")

    peers = (
        Peer("picky", lambda: "1", {"gemm": refuse}),
        Peer("frail", lambda: "1", {"gemm": lambda _: {"way": Runner(break_down)}}),
        Peer("wrong", lambda: "1", {"gemm": lambda p: {"": Runner(lambda: np.zeros((70, 7)))}}),
        Peer("other", lambda: "1", {"rope": refuse}),
    )
    result = measure(SMALL["gemm NN"](), peers, 0.0)
    assert result.refused == {"picky": "RuntimeError: not this shape", "frail way": "ValueError: at run time"}
    assert result.wrong == ("wrong",) and set(result.ratios) == {"wrong"}
    assert result.best_peer() is None and result.best_peer(wrong_too=True)[0] == "wrong"
    text = report.line(result)
    assert "picky cannot: RuntimeError: not this shape" in text and "!" in text


def test_wrong_kernels_are_not_timed():
    problem = SMALL["gemm NN"]()
    broken = dataclasses.replace(problem, ours=lambda: np.zeros((70, 7), np.float32))
    with pytest.raises(Finding):
        measure(broken, (), 0.0)


def test_interleaved_rounds():
    now, order = [0.0], []

    def call(name, seconds):
        order.append(name)
        now[0] += seconds

    calls = [partial(call, "a", 0.01), partial(call, "b", 0.02)]
    times = interleaved(calls, 10.0, clock=lambda: now[0], wall=lambda: 0.0)
    assert times.shape == (2, 200) and np.allclose(times.T, [0.01, 0.02])
    assert order[2:8] == ["a", "b", "b", "a", "a", "b"]

    ticks = itertools.count()
    assert interleaved(calls, 0.5, clock=lambda: now[0], wall=lambda: next(ticks)).shape == (2, 3)

    slow = [partial(call, "a", 0.01), partial(call, "b", 2.0)]  # which sits out when the budget is spent
    found = interleaved(slow, 1.0, clock=lambda: now[0], wall=lambda: 0.0)
    assert np.isfinite(found[0]).all() and np.isfinite(found[1]).sum() == 1


def result(ratio, share=0.5, wrong=(), **others):
    ratios = {"one": ratio, **others}
    return Result("gemm", "group", "shape", "GFLOP/s", 80.0, share, ratios, ratios, tuple(wrong))


def test_verdicts():
    bar = Bar(1.0, lowest=0.9)
    found = judge("g", [result(0.9), result(1.6, two=2.5)], bar)
    assert found.ratio == pytest.approx(1.2) and found.lowest == 0.9 and found.met
    assert judge("g", [result(0.89), result(1.6)], bar).met is False  # one is below 0.9
    assert judge("g", [result(0.95)], bar).met is False


def test_a_peer_at_the_roof_need_only_be_met():
    assert judge("g", [result(0.98, share=0.85)], Bar(1.05)).met  # the peer is at 0.867 of the roof
    assert judge("g", [result(0.98, share=0.80)], Bar(1.05)).met is False
    assert judge("g", [result(0.96, share=0.90)], Bar(1.05)).met is False


def test_peers_with_wrong_outputs_do_not_judge():
    found = judge("g", [result(1.2, fast=0.5, wrong=["fast"])], Bar(1.05))
    assert found.met and found.ratio == pytest.approx(1.2) and found.ratio_wrong_too == pytest.approx(0.5)
    text = report.summary([found])
    assert "1.20 (0.50 with wrong outputs)" in text and "met among right outputs only" in text
    assert "| met |" in report.summary([judge("g", [result(1.2)], Bar(1.05))])


def test_other_bars():
    assert judge("g", [result(1.0, share=0.9)], Bar(share=0.85)).met
    assert judge("g", [result(1.0, share=0.8)], Bar(share=0.85)).met is False
    assert judge("g", [result(1.0)], Bar(rate=81.0)).met is False
    assert judge("g", [result(9.9, own=0.95)], Bar(0.9, against="own")).met
    assert judge("g", [result(9.9)], Bar(0.9, against="own")).met is None  # it was not there
    assert judge("g", [result(1.0)], Bar()).met is None


def test_every_bar_has_a_shape_class():
    words = {label(build) for build in problems(list(OPS))}
    for op in (*others.NORMS, *others.ELEMENTS):
        assert {f"{op} in cache 16 × 4096", f"{op} out of cache 2048 × 4096"} <= words
    small = {build().group for build in SMALL.values()} | {f"{op} out of cache" for op in SMALL}
    assert set(BARS) - small == {"W4, int8 sums, M ≥ 128", "attention decode, long"}  # builders of smaller ones


def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command.adapters, "installed", lambda: Installed((), {}, {"torch": "not there"}))
    file = tmp_path / "r.json"
    asked = ["--op", "qgemm", "--shape", "s8 × s8 64 × 64", "--seconds", "0", "--json", str(file)]
    assert command.main(asked) == 0
    text = capsys.readouterr().out
    assert "torch: MISSING, not there" in text and "| qgemm s8 × s8 | 1 | - | - |" in text
    held = json.loads(file.read_text())
    assert [r["shape"] for r in held["results"]] == ["64 × 64 × 64 s8×s8"] and held["missing"] == {"torch": "not there"}

    later = ["--op", "qgemm", "--shape", "u8 × u8 64 × 64", "--seconds", "0", "--with", str(file)]
    assert command.main(later) == 0
    text = capsys.readouterr().out
    assert "| qgemm s8 × s8 | 1 |" in text and "| qgemm u8 × u8 | 1 |" in text


def test_earlier_results(tmp_path):
    first, again, other = result(1.0), result(2.0), dataclasses.replace(result(3.0, wrong=["one"]), shape="other")
    assert report.merged([first, other], [again]) == [again, other]
    file = tmp_path / "r.json"
    file.write_text(json.dumps(report.as_json(Installed((), {}, {}), [first, other])))
    assert report.load(file) == [first, other]
    file.write_text("{}")
    with pytest.raises(InputError, match="KeyError"):
        report.load(file)
    with pytest.raises(InputError, match="FileNotFoundError"):
        report.load(tmp_path / "none.json")


def test_command_says_when_ours_is_wrong(capsys, monkeypatch):
    def wrong(*_):
        raise Finding("FAIL: far off")

    monkeypatch.setattr(command.adapters, "installed", lambda: Installed((), {}, {}))
    monkeypatch.setattr(command, "measure", wrong)
    assert command.main(["--op", "qgemm", "--shape", "64 × 64"]) == 1
    assert "our output is wrong: FAIL: far off" in capsys.readouterr().err


@pytest.mark.parametrize("asked", [["--op", "gem"], ["--op", ""], ["--shape", "("]])
def test_bad_requests(asked, capsys):
    assert command.main(asked) == 2
    assert ("unknown op" if "--op" in asked else "regular expression") in capsys.readouterr().err


def test_work():
    work = peaks.product(2, 3, 5)
    assert work.rate(1e-9) == pytest.approx(60) and [amount for amount, _ in peaks.probes_of(work)] == [60, 60]
    both = peaks.moved(100, 28)
    assert (
        both.rate(1e-9) == pytest.approx(128)
        and both.unit == "GB/s"
        and [amount for amount, _ in peaks.probes_of(both)] == [128]
    )
    assert peaks.probes_of(work)[0][1][1]() == peaks.compute_probe("fma")[0]  # the loop does the work it says

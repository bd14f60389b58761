"""``npusim serve`` given what users get wrong: one clear message, an exit code, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from npusim.cli import cli, main
from npusim.errors import InputError, NpuError
from npusim.serving.load import load_trace, parse_arrivals, parse_lengths
from npusim.serving.metrics import parse_slo
from npusim.serving_verbs import _ALWAYS, _QUESTIONS, serve
from tests.conftest import SOAK

QUICK = ["--fidelity", "roofline"]
CASES = 600 if SOAK else 25


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["serve", *arguments, *QUICK])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and len(error.strip().splitlines()) == 1 and "internal" not in error
    return error


# -- options that would do nothing ------------------------------------------------------------------------------

ONE = ["h100", "llama-3.1-8b"]
VALUES = {
    "trace": "t.csv", "scenario": "server", "fleet_pflops": "10", "measured": "m.csv", "arrivals": "poisson:3",
    "input_tokens": "64", "output_tokens": "8", "requests": "10", "seed": "1", "slo": "ttft=1s", "chips": "1",
    "pp": "1", "ep": "1", "imbalance_pct": "100", "disaggregate": "1:1", "users": "2", "prefix": "2:64",
    "benchmark": "llama2-70b", "fleet_precision": "fp8", "think_s": "3", "rack_kw": "50", "plot": "p.svg",
    "perfetto": "p.json", "step": "1",
    "find_rate": None, "skip_long": None,
}  # fmt: skip
FLAGS = {param.name or "": param.opts[-1] for param in serve.params}


def test_every_option_belongs_to_a_question():
    taken = set().union(_ALWAYS, *_QUESTIONS.values())
    assert taken == set(FLAGS) and set(VALUES) == set(FLAGS) - _ALWAYS


@pytest.mark.parametrize("question", [name for name in _QUESTIONS if name])
def test_what_another_question_takes_is_refused(question: str, capsys: pytest.CaptureFixture[str]):
    foreign = sorted(set(VALUES) - _QUESTIONS[question] - _ALWAYS)
    first = list(_QUESTIONS).index(question)
    foreign = [name for name in foreign if name not in list(_QUESTIONS)[:first]]  # those questions come first
    assert foreign
    for name in foreign:
        value = VALUES[name]
        asked = [*ONE, FLAGS[question], str(VALUES[question]), FLAGS[name], *([] if value is None else [value])]
        error = refused(asked, capsys)
        assert error.startswith(f"{FLAGS[name]}: has no effect with {FLAGS[question]}"), error


@pytest.mark.parametrize(("arguments", "message"), [
    (["--users", "5"], "--policy fair"), (["--policy", "fair"], "--users N"), (["--policy", "priority"], "--trace"),
    (["--policy", "fairy"], "did you mean 'fair'"), (["--think", "3"], "belongs to --fleet-pflops"),
    (["--skip-long"], "belongs to --trace"), (["--step", "3"], "--perfetto"),
    (["--speculate", "0:1"], "drafts nothing"),
    (["--prefix", "3:5"], "shares nothing"), (["--no-chunking", "--input", "4096"], "are not split"),
    (["--chips", "3", "--disaggregate", "1:1"], "a multiple of 2"), (["--chips", "0"], "1 to 65536"),
    (["--slo", "tfft=1s"], "did you mean 'ttft'"), (["--slo", "ttft=450"], "no unit"),
    (["--arrivals", "poison:3"], "did you mean 'poisson'"), (["--arrivals", "poisson:0"], "positive"),
    (["--arrivals", "poisson:1e300"], "out of range"),
    (["--requests", "0"], "requests: 0"), (["--seed", "-1"], "seed: -1"),
    (["--scenario", "servr"], "did you mean 'server'"), (["--fleet-pflops", "0"], "more than 0"),
    (["--fleet-pflops", "nan"], "--fleet-pflops"), (["--fleet-pflops", "1", "--requests", "-1"], "requests: -1"),
    (["--scenario", "server", "--seed", "-1"], "seed: -1"),
])  # fmt: skip
def test_mistakes_are_named_with_what_is_allowed(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert message in refused([*ONE, *arguments], capsys)


@pytest.mark.parametrize(("chip", "model", "meant"), [
    ("h10", "llama-3.1-8b", "h100"), ("h100", "llama-3.1-8bb", "llama-3.1-8b"),
])  # fmt: skip
def test_unknown_names_are_told_what_was_meant(chip: str, model: str, meant: str, capsys: pytest.CaptureFixture[str]):
    assert f"did you mean '{meant}'" in refused([chip, model], capsys)


def test_a_trace_brings_its_own_times_and_nobody_elses(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "t.csv"
    file.write_text("arrival_s,input_tokens,output_tokens,priority\n0,100,5,1\n1,50,5,0\n")
    trace = [*ONE, "--trace", str(file), "--chips", "1"]
    assert "its own times" in refused([*trace, "--arrivals", "poisson:3"], capsys)
    assert "needs users" in refused([*trace, "--policy", "fair"], capsys)
    for fine in (["--arrivals", "closed:2"], ["--policy", "priority"], []):
        assert CliRunner().invoke(cli, ["serve", *trace, *fine, *QUICK]).exit_code == 0


# -- anything at all --------------------------------------------------------------------------------------------

WORDS = st.sampled_from(["", "0", "-1", "1", "7", "1e300", "nan", "inf", "1:1", "2:3", "0:0", "poisson:5", "closed:3",
                         "gamma:2,cv=3", "uniform:5-2", "lognormal:100,max=50", "ttft=1s,tpot=1ms", "ttft=1us", "auto",
                         "fair", "swap", "prefill-first", "server", "offline", "fp8", "tile", "\u0660", "x" * 300,
                         "a\x00b", "../", "16:8", "3:2.5"])  # fmt: skip
OPTIONS = sorted(set(VALUES) - {"plot", "perfetto", "fleet_pflops", "scenario"}) + sorted(_ALWAYS - {"chip", "model"})


@st.composite
def command(draw: st.DrawFn) -> list[str]:
    chosen = draw(st.lists(st.sampled_from(OPTIONS), max_size=4, unique=True))
    words: list[str] = []
    for name in chosen:
        param = next(p for p in serve.params if p.name == name)
        words += (
            [param.opts[-1]]
            if getattr(param, "is_flag", False)
            else [param.opts[-1], draw(WORDS | st.text(max_size=8))]
        )
    return words


@settings(max_examples=CASES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(command())
def test_no_command_line_ends_in_a_traceback(words: list[str]):
    first = [*ONE, *([] if "--chips" in words else ["--chips", "1"]), "--requests", "20", *QUICK]
    result = CliRunner().invoke(cli, ["serve", *first, *words])
    error = result.exception
    assert error is None or isinstance(error, SystemExit | NpuError), (words, repr(error))


CELLS = st.sampled_from(["0", "1", "2.5", "-1", "", "nan", "inf", "1e400", "1e15", "99999999999999999999", "x", "0x10",
                         "1 day 00:00:01", "00:00:01.5", "1 2 3", "\ufeff", "\u0661", " 7 ", '"', "1,2",
                         "1_000"])  # fmt: skip
TITLES = ["arrival_s", "input_tokens", "output_tokens", "hash_ids", "user", "priority", "note", "arrival_s"]


@settings(max_examples=5 * CASES, deadline=None)
@given(
    st.permutations(TITLES), st.integers(3, 8), st.lists(st.lists(CELLS | st.text(max_size=5), max_size=8), max_size=6)
)
def test_no_trace_ends_in_a_traceback(tmp_path_factory: pytest.TempPathFactory, titles: list[str], width: int,
                                      rows: list[list[str]]):  # fmt: skip
    file = tmp_path_factory.mktemp("t") / "t.csv"
    text = "\n".join(",".join(row) for row in [titles[:width], *rows])
    file.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    try:
        trace = load_trace(file)
    except InputError as error:
        assert str(file) in str(error)
        return
    times = trace.requests.arrival_s
    assert len(trace.requests) > 0 and times[0] == 0 and (times[1:] >= times[:-1]).all()
    assert trace.requests.input_tokens.min() >= 1 and trace.requests.output_tokens.min() >= 1


@settings(max_examples=5 * CASES, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["t.csv", "t.csv.gz"]))
def test_no_bytes_end_in_a_traceback(tmp_path_factory: pytest.TempPathFactory, raw: bytes, name: str):
    file = tmp_path_factory.mktemp("t") / name
    file.write_bytes((b"\x1f\x8b\x08\x00\x00\x00\x00\x00" if name.endswith("gz") else b"") + raw)
    with pytest.raises(InputError):
        load_trace(file)


@settings(max_examples=5 * CASES, deadline=None)
@given(
    st.text(max_size=30) | st.from_regex(r"(poisson|gamma|closed|ttft|tpot|lognormal|uniform)[:=][0-9.e+-]{1,8}.{0,6}")
)
def test_no_word_ends_in_a_traceback(text: str):
    for parse in (parse_slo, parse_arrivals, lambda t: parse_lengths(t, "input")):
        try:
            parse(text)  # type: ignore[operator]
        except InputError as error:
            assert len(str(error).splitlines()) <= 2 or "\n" in text

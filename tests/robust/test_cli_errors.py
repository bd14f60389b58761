"""Does every bad use of the command line end in clear lines on stderr, the right exit code, and nothing else?"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from npusim.cli import main
from npusim.models import model_entries
from tests.conftest import SOAK, TOY

OP = "gemm:m=4,n=4,k=4"
MODEL = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 100}  # fmt: skip
SUITE = (
    "format: npusim-suite/1\nname: s\nmodels: [llama-3.1-8b]\nprecisions: [fp8]\nlengths: [[5, 3]]\nconcurrency: [2]\n"
)


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NPUSIM_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    """Runs the command line in this process."""

    def call(*argv: str | os.PathLike[str]) -> Result:
        with pytest.raises(SystemExit) as caught:
            main([os.fspath(arg) for arg in argv])
        captured = capsys.readouterr()
        return Result(int(caught.value.code or 0), captured.out, captured.err)

    return call


def check(result: Result, code: int, *says: str, lines: int = 3) -> None:
    assert result.code == code, result
    assert result.out == "", result
    assert "Traceback" not in result.err and "internal error" not in result.err
    for text in says:
        assert text in result.err, result.err
    assert 1 <= len(result.err.strip().splitlines()) <= lines, result.err
    assert all(len(line) < 1500 for line in result.err.splitlines())


def shell(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("NPUSIM", "PYTHON", "LC_", "LANG", "COLUMNS"))}
    return subprocess.run(
        [sys.executable, "-m", "npusim", *argv], capture_output=True, text=True, env=env | environment, timeout=120,
        encoding="utf-8", stdin=subprocess.DEVNULL,
    )  # fmt: skip


# -- files -------------------------------------------------------------------------------------------------

BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
CHIP_FILES: dict[str, tuple[bytes | str, str]] = {
    "typo in a key": (TOY.replace("cores:", "croes:"), "did you mean 'cores'?"),
    "wrong unit": (TOY.replace("1 GHz", "1 GB"), "clock: unit 'GB' of '1 GB' is not a unit of frequency"),
    "no unit": (TOY.replace("10 GB,", "10,"), "memory.capacity: '10' has no unit"),
    "ambiguous unit": (TOY.replace("10 GB,", "10 Gb,"), "ambiguous"),
    "duplicate key": (TOY + "cores: 5\n", "duplicate key 'cores'"),
    "a million brackets": ("x: " + "[" * 10**6, "nested deeper than 32 levels"),
    "a million braces": ("x: " + "{a: " * 200_000, "nested deeper than 32 levels"),
    "alias bomb": (BOMB, "anchor '&a' is not allowed"),
    "alias": (TOY + "notes: *x\n", "alias '*x' is not allowed"),
    "tag": ("x: !!python/object/apply:os.system [id]\n", "tag"),
    "merge": (TOY + "<<: {a: 1}\n", "merge keys"),
    "not yaml": ("a: [1, 2\n", "not valid YAML"),
    "tab": ("a:\n\tb: 1\n", "not valid YAML"),
    "empty": ("", "expected a mapping of keys to values, found nothing"),
    "list": ("- a\n", "expected a mapping of keys to values, found a list"),
    "binary": (bytes(range(256)) * 10, "not UTF-8"),
    "nul": (b"\0" * 100, "not valid YAML"),
    "too big": ("# " + "x" * 2**21, "file is too big"),
    "two documents": (TOY + "---\na: 1\n", "more than one document"),
    "infinite": (TOY.replace("1 GHz", ".inf"), "not finite"),
    "contradiction": (
        TOY + "declared: {bandwidth: 200 GB/s}\n",
        "declared 200 GB/s, but the description gives 100 GB/s",
    ),
    "long key": (TOY + "k" * 1000 + ": 1\n", "unknown key"),
    "terminal codes": (TOY + '"\\e[31mred": 1\n', "unknown key"),
}


@pytest.mark.parametrize("verb", ["estimate", "kperf", "lint", "catalog show"])
@pytest.mark.parametrize("case", CHIP_FILES)
def test_bad_chip_file(run, tmp_path: Path, case: str, verb: str):
    content, says = CHIP_FILES[case]
    file = tmp_path / "bad.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    argv = {"estimate": ["estimate", file, OP], "kperf": ["kperf", "--chip", file], "lint": ["lint", file],
            "catalog show": ["catalog", "show", file]}[verb]  # fmt: skip

    result = run(*argv)

    if verb in ("estimate", "kperf"):
        check(result, 2, says, "bad.yaml")
    else:  # the kind of the file decides what is expected of it
        check(result, 2, "bad.yaml")
    assert "\x1b" not in result.err


CONFIGS: dict[str, tuple[bytes, str]] = {
    "list": (b"[1]", "a mapping of fields"),
    "empty": (b"", "not valid JSON"),
    "binary": (bytes(range(256)), "not UTF-8"),
    "2 MiB": (b'{"a": "' + b"x" * 2**21 + b'"}', "too big"),
    "brackets": (b"[" * 10**6, "nested deeper"),
    "duplicate": (b'{"a": 1, "a": 2}', "duplicate key 'a'"),
    "no type": (b"{}", "model_type"),
    "text for a number": (json.dumps(MODEL | {"hidden_size": "many"}).encode(), "hidden_size"),
    "negative": (json.dumps(MODEL | {"num_hidden_layers": -3}).encode(), "num_hidden_layers"),
    "huge": (json.dumps(MODEL | {"hidden_size": 2**70}).encode(), "hidden_size"),
}


@pytest.mark.parametrize("case", CONFIGS)
@pytest.mark.parametrize("verb", ["estimate", "kperf", "lint"])
def test_bad_model_config(run, tmp_path: Path, case: str, verb: str):
    content, says = CONFIGS[case]
    file = tmp_path / "config.json"
    file.write_bytes(content)
    argv = {"estimate": ["estimate", "rebel-quad", f"{file}:decode"], "kperf": ["kperf", "--model", file],
            "lint": ["lint", file]}[verb]  # fmt: skip
    check(run(*argv), 2, says, "config.json", lines=8)


SUITES: dict[str, tuple[str, str]] = {
    "unknown key": (SUITE + "lenghts: [[1, 1]]\n", "did you mean 'lengths'?"),
    "zero length": (SUITE.replace("[5, 3]", "[0, 3]"), "lengths[0][0]"),
    "no lengths": (SUITE.replace("[[5, 3]]", "[]"), "lengths"),
    "no concurrency": (SUITE.replace("[2]", "[]"), "concurrency"),
    "zero concurrency": (SUITE.replace("[2]", "[0]"), "concurrency[0]"),
    "no models": (SUITE.replace("[llama-3.1-8b]", "[]"), "models"),
    "unknown model": (SUITE.replace("llama-3.1-8b", "lama-3.1-8b"), "did you mean 'llama-3.1-8b'?"),
    "unknown precision": (SUITE.replace("fp8", "fp9"), "did you mean 'fp8'?"),
    "an encoder": (SUITE.replace("llama-3.1-8b", "bert-large"), "'bert-large' is an encoder: it has no decode step"),
    "empty": ("", "expected a mapping"),
}


@pytest.mark.parametrize("case", SUITES)
def test_bad_suite(run, tmp_path: Path, case: str):
    content, says = SUITES[case]
    file = tmp_path / "suite.yaml"
    file.write_text(content)
    check(run("kperf", "--suite", file), 2, says)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["estimate", "none.yaml", OP], "none.yaml: cannot read: No such file"),
        (["estimate", "./", OP], "is a folder, not a file"),
        (["kperf", "--suite", "none.yaml"], "none.yaml: cannot read: No such file"),
        (["kperf", "--suite", "./"], "is a folder"),
        (["kperf", "--model", "none.json"], "none.json: cannot read"),
        (["kperf", "--model", "./"], "config.json: cannot read"),
        (["lint", "none.yaml"], "none.yaml: cannot read"),
        (["lint", "none.json"], "none.json: cannot read"),
        (["lint", "."], "is a folder"),
        (["estimate", "rebel-quad", "./none.json:decode"], "none.json: cannot read"),
        (["catalog", "show", "./none.yaml"], "none.yaml"),
        (["estimate", "/dev/zero", OP], "/dev/zero: file is too big"),
    ],
)
def test_missing_files(run, argv: list[str], says: str):
    check(run(*argv), 2, says)


# -- names, values, options -----------------------------------------------------------------------------------

SET = ["estimate", "rebel-quad", OP, "--set"]
USES: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "chip": (["estimate", "rebel-qaud", OP], ("unknown chip 'rebel-qaud'", "did you mean 'rebel-quad'?")),
    "chip of kperf": (["kperf", "--chip", "h1000"], ("unknown chip 'h1000'", "did you mean 'h100'?")),
    "model": (["kperf", "--model", "llama-3.1-9b"], ("unknown model", "did you mean 'llama-3.1-8b'?")),
    "suite": (["kperf", "--suite", "kperf-2052"], ("unknown suite", "did you mean 'kperf-2025'?")),
    "precision": (["kperf", "--precision", "fp9"], ("unknown precision", "did you mean 'fp8'?")),
    "verb": (["kpref"], ("No such command 'kpref'", "kperf")),
    "option": (["kperf", "--modle", "x"], ("No such option", "--model")),
    "fidelity": (
        ["estimate", "rebel-quad", OP, "--fidelity", "rooflin"],
        ("unknown fidelity", "did you mean 'roofline'?"),
    ),
    "show": (
        ["catalog", "show", "rebel-qaud"],
        ("no chip or model is called 'rebel-qaud'", "did you mean 'rebel-quad'?"),
    ),
    "paths": (["catalog", "--paths", "rebel-qaud"], ("unknown chip", "did you mean 'rebel-quad'?")),
    "long name": (["estimate", "x" * 5000, OP], ("unknown chip",)),
    "empty name": (["estimate", "", OP], ("unknown chip ''",)),
    "no argument": (["estimate", "rebel-quad"], ("Missing argument 'WORKLOAD'",)),
    "too many": (["estimate", "rebel-quad", OP, "x"], ("unexpected extra argument",)),
    "unavailable": (["estimate", "sapeon-x220", OP], ("is unavailable: missing memory.bandwidth",)),
    "unavailable in kperf": (["kperf", "--chip", "sapeon-x220"], ("is unavailable: missing memory.bandwidth",)),
    "encoder": (["kperf", "--model", "bert-large"], ("'bert-large' is an encoder",)),
    "encoder's decode": (["estimate", "rebel-quad", "bert-large:decode"], ("'bert-large' is an encoder",)),
    "set without =": ([*SET, "memory.bandwidth"], ("--set: 'memory.bandwidth' is not PATH=VALUE",)),
    "set without value": ([*SET, "memory.bandwidth= "], ("is not PATH=VALUE",)),
    "set without path": ([*SET, "=5"], ("unknown",)),
    "set twice": ([*SET, "cores=1", "--set", "cores = 2"], ("'cores' is given twice",)),
    "set of an unknown path": ([*SET, "memory.bandwith=1 TB/s"], ("unknown", "did you mean")),
    "set below a figure": ([*SET, "memory.bandwidth.x=1"], ("unknown chip figure", "did you mean 'memory.bandwidth'?")),
    "set of the name": ([*SET, "name=x"], ("unknown chip figure 'name'",)),
    "set of a declared total": ([*SET, "declared.peak.fp8=5 PFLOPS"], ("unknown chip figure",)),
    "set of text": ([*SET, "cores=many"], ("cores", "valid integer")),
    "set of zero": ([*SET, "cores=0"], ("cores", "greater than or equal to 1")),
    "set of a wrong unit": ([*SET, "memory.bandwidth=6 TB"], ("memory.bandwidth", "did you mean 'TB/s'?")),
    "set of a negative": ([*SET, "clock=-1 GHz"], ("clock", "out of range")),
    "set of nan": ([*SET, "clock=nan"], ("clock",)),
    "set of infinity": ([*SET, "memory.capacity=1e999 GB"], ("memory.capacity", "out of range")),
    "workload": (["estimate", "rebel-quad", "gemm"], ("'gemm' is not a workload", "MODEL:prefill")),
    "operator": (["estimate", "rebel-quad", "gem:m=1"], ("unknown operator or phase 'gem'", "did you mean 'gemm'?")),
    "phase": (["estimate", "rebel-quad", "llama-3.1-8b:prefil"], ("did you mean 'prefill'?",)),
    "too many experts": (["estimate", "rebel-quad", "experts:tokens=9,top_k=10,experts=2,n=8,k=8"], ("top_k",)),
    "operator on two chips": (["estimate", "rebel-quad", OP, "--tp", "2"], ("cannot be split over 2 chips",)),
    "no link": (["estimate", "toy.yaml", "llama-3.1-8b:decode,tp=2"], ("describes no link", "use tp=1")),
    "no link in kperf": (["kperf", "--chip", "toy.yaml", "--tp", "2", "--suite", "suite.yaml"], ("describes no link",)),
    "color": (["kperf", "--json=yes"], ("--json",)),
}


@pytest.mark.parametrize("case", USES)
def test_bad_use(run, tmp_path: Path, case: str):
    (tmp_path / "toy.yaml").write_text(TOY.replace("link: {bandwidth: 10 GB/s}\n", "").replace("10 GB,", "100 GB,"))
    (tmp_path / "suite.yaml").write_text(SUITE)
    argv, says = USES[case]
    check(run(*argv), 2, *says, lines=4)


def test_partial_model(run):
    from npusim.models import model_entries

    partial = [entry.name for entry in model_entries() if entry.status == "partial"]
    for name in partial:
        check(run("kperf", "--model", name), 2, f"model '{name}' is unavailable: missing")
    assert partial


@pytest.mark.parametrize(
    "value", ["0", "-1", "abc", "1.5", "", " 2", "²", "1e3", "4097", "1000000000", "9" * 5000, "+2"]
)
@pytest.mark.parametrize(
    "argv", [["kperf", "--suite", "suite.yaml"], ["estimate", "rebel-quad", "llama-3.1-8b:decode"]]
)
def test_bad_tp(run, tmp_path: Path, argv: list[str], value: str):
    (tmp_path / "suite.yaml").write_text(SUITE)
    check(run(*argv, "--tp", value), 2, "--tp", "an integer from 1 to 4096")


@pytest.mark.parametrize(
    "value", ["0", "-1", "1.5", "abc", "1e3", str(2**70), str(2**40 + 1), "9" * 399, "nan", "0x10", "true", "1_0", "²"]
)
@pytest.mark.parametrize("key", ["m", "groups"])
def test_bad_dimension(run, key: str, value: str):
    result = run(
        "estimate", "rebel-quad", f"gemm:m=4,n=4,k=4,{key}={value}".replace("m=4,", "" if key == "m" else "m=4,")
    )
    check(result, 2, f"gemm.{key}: ", "from 1 to 2^40")


@pytest.mark.parametrize(
    "workload",
    [
        "gemm:m=1,n=1,k=1,bias=abc", "gemm:m=1,n=1,k=1,bias=-1", "elementwise:n=5,function=7",
        "attention:batch=1,heads=1,kv_heads=1,head_dim=8,seq_q=1,seq_kv=2,causal=maybe",
        f"attention:batch=1,heads=1,kv_heads={2**70},head_dim=abc,seq_q=1,seq_kv=2",
        "attention:batch=1,heads=1,kv_heads=1000000000,head_dim=abc,seq_q=1,seq_kv=2",
        "experts:tokens=1000000,top_k=10,experts=2,n=8,k=8", "collective:elements=1,chips=0",
        "llama-3.1-8b:decode,tp=x", "llama-3.1-8b:decode,b=0", "llama-3.1-8b:prefill,prompt=1.5",
        f"llama-3.1-8b:prefill,b={2**40},prompt={2**40}",
    ],
)  # fmt: skip
def test_bad_workload(run, workload: str):
    check(run("estimate", "rebel-quad", workload), 2)


@pytest.mark.parametrize(
    "workload",
    [
        "collective:elements=1,chips=1", f"gemm:m={2**40},n={2**40},k={2**40}", "llama-3.1-8b:decode,ctx=0",
        "norm:rows=1,cols=5,x=fp32",
    ],
)  # fmt: skip
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_extreme_but_allowed(run, workload: str, options: list[str]):
    result = run("estimate", "rebel-quad", workload, *options)
    assert (result.code, result.err) == (0, "")
    if options:
        assert json.loads(result.out)["time_s"] >= 0


@pytest.mark.parametrize(
    "figure", ["clock=1e299 GHz", "clock=1e-299 Hz", "memory.capacity=1e280 TB", "power.tdp=1e300 W"]
)
def test_extreme_figures(run, figure: str):
    result = run("estimate", "rebel-quad", OP, "--json", "--set", figure)
    assert result.code in (0, 2) and "Traceback" not in result.err
    if result.code == 0:
        json.loads(result.out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


# -- does not fit, reports ------------------------------------------------------------------------------------


def test_does_not_fit(run, tmp_path: Path):
    (tmp_path / "toy.yaml").write_text(TOY.replace("link: {bandwidth: 10 GB/s}\n", "").replace("10 GB,", "1 GB,"))
    (tmp_path / "suite.yaml").write_text(SUITE.replace("llama-3.1-8b", "llama-3.1-405b"))
    result = run("kperf", "--chip", "toy.yaml", "--suite", "suite.yaml", "--json")
    assert result.code == 3
    (row,) = json.loads(result.out)["rows"]
    assert not row["fits"] and row["ttft_s"] is None
    # 403.9e9 matrix elements in fp8 and 2.1e9 in bf16 on 1 GB.
    assert row["short_bytes"] == pytest.approx(408e9, rel=0.02)
    assert re.fullmatch(
        r"no row of suite 's' fits; the closest is llama-3.1-405b fp8 on 1 x toy, short by 4[01]\d GB per chip\n",
        result.err,
    )


@pytest.mark.parametrize("out", ["file", "/proc/nope", "/dev/null/x", "file/below"])
def test_out_cannot_be_written(run, tmp_path: Path, out: str):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "suite.yaml").write_text(SUITE)
    before = sorted(tmp_path.iterdir())
    result = run("kperf", "--suite", "suite.yaml", "--out", out)
    assert "Throughput" in result.out or "tokens/s" in result.out  # the table is not lost with the files
    check(result._replace(out=""), 2, out.split("/")[-1])
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "file").read_text() == "mine"


def test_a_bad_option_leaves_no_folder(run, tmp_path: Path):
    check(run("kperf", "--out", "reports", "--precision", "fp9"), 2)
    check(run("kperf", "--out", "reports", "--tp", "0"), 2)
    assert not (tmp_path / "reports").exists()


def test_lint_reports_every_problem_of_every_file(run, tmp_path: Path):
    (tmp_path / "good.yaml").write_text(TOY)
    (tmp_path / "bad.yaml").write_text(TOY.replace("1 GHz", "1 Hg").replace("tdp", "tpd"))
    (tmp_path / "list.yaml").write_text("[]")
    result = run("lint", "good.yaml", "bad.yaml", "list.yaml")
    assert result.code == 2 and result.out == "good.yaml: ok (chip)\n"
    assert [line.split(":")[0] for line in result.err.splitlines()] == ["bad.yaml", "bad.yaml", "list.yaml"]


# -- the process ----------------------------------------------------------------------------------------------


def test_no_arguments_shows_the_verbs():
    done = shell()
    assert done.returncode == 2 and done.stdout == "" and "kperf" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["kperf", "--help"], ["--version"]])
def test_help_is_no_error(run, argv: list[str]):
    result = run(*argv)
    assert result.code == 0 and result.out and not result.err


def test_debug_shows_the_traceback():
    done = shell("estimate", "rebel-qaud", OP, NPUSIM_DEBUG="1")
    assert done.returncode != 0 and "Traceback" in done.stderr and done.stdout == ""


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
)
@pytest.mark.parametrize("verb", ["estimate", "kperf", "catalog", "show", "error"])
def test_any_output_encoding(tmp_path: Path, environment: dict[str, str], verb: str):
    (tmp_path / "s.yaml").write_text(SUITE)
    argv = {
        "estimate": ["estimate", "rebel-quad", OP],
        "kperf": ["kperf", "--suite", str(tmp_path / "s.yaml")],
        "catalog": ["catalog"],
        "show": ["catalog", "show", "npu-2pf"],
        "error": ["estimate", "régulier", OP],
    }
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LC_", "LANG", "NPUSIM"))} | environment
    done = subprocess.run([sys.executable, "-m", "npusim", *argv[verb]], capture_output=True, env=env, timeout=60)
    assert done.returncode == (2 if verb == "error" else 0), done.stderr
    assert b"Traceback" not in done.stderr and b"internal error" not in done.stderr
    assert done.stderr if verb == "error" else done.stdout


def test_narrow_and_colourless(tmp_path: Path):
    (tmp_path / "s.yaml").write_text(SUITE)
    done = shell("kperf", "--suite", str(tmp_path / "s.yaml"), COLUMNS="40", NO_COLOR="1", TERM="xterm")
    assert done.returncode == 0 and done.stdout and done.stderr == "" and "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("argv", [["catalog"], ["kperf", "--suite", "s.yaml", "--json"]])
def test_a_closed_pipe_is_no_error(tmp_path: Path, argv: list[str]):
    (tmp_path / "s.yaml").write_text(SUITE.replace("[[5, 3]]", str([[n, 3] for n in range(1, 500)])))
    with subprocess.Popen(
        [sys.executable, "-m", "npusim", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


INTERRUPTED = """
import os, signal, sys
import npusim.kperf_suite as suite
from npusim.cli import main
def stop(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGINT)
    raise AssertionError("not interrupted")
suite.kperf = stop
main(["kperf"])
"""


def heed_interrupts() -> None:
    """Before the program starts: shells let what they run in the background ignore the signal."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupt_in_the_middle():
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60, preexec_fn=heed_interrupts
    )
    assert done.returncode == 130
    assert done.stdout == "" and done.stderr.strip() == "interrupted"


MANY_MODELS = [
    f"--model={e.name}" for e in model_entries() if e.status == "seen" and e.name not in ("bert-large", "vit-b-16")
]


def test_interrupt_from_outside(tmp_path: Path):
    (tmp_path / "s.yaml").write_text(SUITE.replace("[[5, 3]]", str([[n, 2**20] for n in range(1, 1000)])))
    argv = [sys.executable, "-m", "npusim", "kperf", "--json", "--suite", "s.yaml", *MANY_MODELS]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed_interrupts) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        # Interrupt once the verb has begun: NumPy is loaded by then, and pricing takes far longer than that.
        while "yaml" not in maps.read_text() and process.poll() is None:
            time.sleep(0.02)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == b"" and err.strip() == b"interrupted"


# -- any words at all -------------------------------------------------------------------------------------------

WORDS = [
    "kperf",
    "estimate",
    "catalog",
    "lint",
    "show",
    "rebel-quad",
    "h100",
    "sapeon-x220",
    "--chip",
    "--model",
    "--suite",
    "--precision",
    "--tp",
    "--set",
    "--json",
    "--paths",
    "--fidelity",
    "--all",
    "--",
    "-h",
    "auto",
    "8",
    "fp8",
    "roofline",
    "llama-3.1-8b",
    "bert-large",
    "llama-3.1-8b:decode",
    "gemm:m=4,n=4,k=4",
    "norm:rows=0,cols=1",
    "cores=8",
    "clock=",
    "memory.bandwidth=6 TB/s",
    "levels.l1.capacity=1 B",
    "core.matrix.rows=1",
    "x.yaml",
    ".",
    "",
    "=",
    "²",
    "\x00",
    "😀",
    "gemm:m=9999999999999,n=1,k=1",
    "power.tdp=1 W",
    "power.tdp=0 W",
    "link=5",
    "aliases.0=x",
    "memory.channels=1e30",
    "collective:elements=9,chips=1",
    "attention:batch=1,heads=0,kv_heads=x,head_dim=1,seq_q=1,seq_kv=1",
]


@settings(max_examples=5000 if SOAK else 400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.lists(st.sampled_from(WORDS), max_size=7),
        st.builds(lambda words: ["estimate", "rebel-quad", *words], st.lists(st.sampled_from(WORDS), max_size=4)),
        st.builds(
            lambda op, sets: ["estimate", "rebel-quad", op, *(x for s in sets for x in ("--set", s))],
            st.sampled_from([w for w in WORDS if ":" in w]),
            st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=12)), max_size=3),
        ),
        st.lists(st.text(max_size=10), max_size=4),
    )
)
def test_no_words_cause_an_internal_error(capsys: pytest.CaptureFixture[str], argv: list[str]):
    if argv[:1] == ["kperf"]:
        argv = ["kperf", "--precision", "fp8", "--model", "llama-3.1-8b", *argv[1:]]
    with pytest.raises(SystemExit) as caught:
        main(argv)
    captured = capsys.readouterr()
    code = caught.value.code or 0
    assert code in (0, 2, 3), (argv, captured.err)
    assert "Traceback" not in captured.err
    assert code == 0 or captured.err.strip()

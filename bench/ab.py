"""Compares two commits: ``python -m bench.ab BASE HEAD``.

Each commit is checked out into a git worktree of its own and built there. The benchmarks then run in
interleaved rounds (BASE HEAD HEAD BASE, then HEAD BASE BASE HEAD), a process each, and ``npusim.regression``
judges the paired times. The instructions that the C kernels execute are counted under callgrind, where valgrind
is installed, as a witness that no noise moves. Exit code 1 on a regression, 2 when there is nothing to compare.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from npusim import regression
from npusim.errors import InputError

ROOT = Path(__file__).parents[1]
INSTRUCTION_THRESHOLD = 1.02
_ENTRY = re.compile(r"^\s*([\d,]+) .*:(?:_cffi_f_npk|npk_slots)_(\w+)", re.MULTILINE)


def run(*command: str, cwd: Path = ROOT, env: dict[str, str] | None = None, limit_s: float = 900) -> str:
    """Runs a command and returns its output. Raises InputError with the end of it when it fails."""
    try:
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise InputError(f"{' '.join(command)[:200]} took more than {limit_s:g} s") from None
    if done.returncode:
        raise InputError(f"{' '.join(command)[:200]} failed:\n{(done.stdout + done.stderr)[-2000:].strip()}")
    return done.stdout


@contextmanager
def worktrees(*commits: str) -> Iterator[list[Path]]:
    """Checks out and builds each commit in a folder of its own; removes them at the end."""
    ids = [
        run("git", "rev-parse", "--verify", "--end-of-options", f"{commit}^{{commit}}").strip() for commit in commits
    ]
    made: list[Path] = []
    with tempfile.TemporaryDirectory(prefix="npusim-ab-") as folder:
        try:
            for side, commit in enumerate(ids):
                tree = Path(folder) / f"side{side}"  # paths of equal length, which end up in the binaries
                run("git", "worktree", "add", "--quiet", "--detach", str(tree), commit)
                made.append(tree)
                run(sys.executable, "setup.py", "-q", "build_ext", "--inplace", cwd=tree)
            yield made
        finally:
            for tree in made:
                subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=False)


def environment(tree: Path) -> dict[str, str]:
    """The environment in which a worktree's own packages run, on one thread."""
    threads = {name: "1" for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return {**os.environ, **threads, "PYTHONPATH": f"{tree}{os.pathsep}{tree / 'kernels'}", "PYTHONHASHSEED": "0"}


def pytest_command(select: str | None, path: str, *options: str) -> list[str]:
    """How the selected benchmarks run, without plugins that would disturb them."""
    plain = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", *options, *(["-k", select] if select else []), path]
    return [sys.executable, "-m", "pytest", *plain]


def shortest_times(tree: Path, select: str | None, path: str, budget_s: float) -> dict[str, float]:
    """One timing of every selected benchmark: its shortest run, in seconds."""
    result = tree / "ab-round.json"
    limits = [f"--benchmark-max-time={budget_s}", "--benchmark-min-rounds=3", f"--benchmark-json={result}"]
    run(*pytest_command(select, path, "--benchmark-only", *limits), cwd=tree, env=environment(tree))
    return {name: timing.min_s for name, timing in regression.read_record(result).tests.items()}


def interleave(
    trees: list[Path], select: str | None, path: str, rounds: int, budget_s: float
) -> list[dict[str, list[list[float]]]]:
    """Times both sides in turn. Returns for each side the two times of every round, by test."""
    sides: list[dict[str, list[list[float]]]] = [{}, {}]
    for number in range(rounds):
        for side in regression.order(number):
            for name, seconds in shortest_times(trees[side], select, path, budget_s).items():
                times = sides[side].setdefault(name, [[] for _ in range(rounds)])
                times[number].append(seconds)
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return sides


def judge(sides: list[dict[str, list[list[float]]]], threshold: float) -> regression.Comparison:
    """Verdicts on every test that both sides ran in every round."""
    common = sorted(sides[0].keys() & sides[1].keys())
    complete = [name for name in common if all(len(pair) == 2 for side in sides for pair in side[name])]
    if not complete:
        raise InputError("the two commits have no benchmark in common")
    verdicts = tuple(
        regression.paired(name, *(np.array(side[name]) for side in sides), threshold=threshold) for name in complete
    )
    only = [tuple(sorted(sides[i].keys() - sides[1 - i].keys())) for i in (0, 1)]
    notes = tuple(f"{name} did not run in every round" for name in common if name not in complete)
    return regression.Comparison(verdicts, *only, notes)


def instructions(tree: Path, select: str | None, path: str) -> dict[str, int]:
    """Instructions executed inside each entry point of the C kernels, when every benchmark runs once."""
    out = tree / "ab-callgrind.out"
    tool = [
        "valgrind",
        "--tool=callgrind",
        "--collect-atstart=no",
        "--toggle-collect=_cffi_f_npk_*",
        "--toggle-collect=npk_slots_*",
    ]
    command = [*tool, f"--callgrind-out-file={out}", *pytest_command(select, path, "--benchmark-disable")]
    run(*command, cwd=tree, env=environment(tree), limit_s=1800)
    listing = run("callgrind_annotate", "--inclusive=yes", "--threshold=100", str(out))
    counts: dict[str, int] = {}
    for count, name in _ENTRY.findall(listing):  # one line by way of cffi, one by way of a shortcut
        counts[f"npk_{name}"] = counts.get(f"npk_{name}", 0) + int(count.replace(",", ""))
    return counts


def instruction_table(counts: list[dict[str, int]]) -> tuple[list[str], list[str]]:
    """Markdown lines for the entry points of both sides, and the names of those that grew."""
    lines = ["", "| C entry point | baseline instructions | current | ratio |", "|---|---:|---:|---:|"]
    grown = []
    for name in sorted(counts[0].keys() & counts[1].keys()):
        before, after = counts[0][name], counts[1][name]
        lines.append(f"| {name} | {before:,} | {after:,} | {after / before:.4f} |")
        if after > INSTRUCTION_THRESHOLD * before:
            grown.append(name)
    return lines, grown


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.ab", description=__doc__.split("\n")[0])
    parser.add_argument("base", help="commit to compare with")
    parser.add_argument("head", help="commit in question")
    parser.add_argument("-k", dest="select", help="benchmarks to run, as pytest -k")
    parser.add_argument("--path", default="bench", help="file or folder of benchmarks (default: bench)")
    parser.add_argument("--rounds", type=int, default=10, help="ABBA rounds (default: 10; fewer find less)")
    parser.add_argument("--time", type=float, default=0.1, help="seconds per benchmark and timing (default: 0.1)")
    parser.add_argument("--threshold", type=float, default=5, help="percent that counts as slower (default: 5)")
    parser.add_argument("--no-callgrind", action="store_true", help="leave the instruction counts out")
    parser.add_argument("--json", type=Path, help="also write the verdicts there")
    found = parser.parse_args(argv)
    if not 3 <= found.rounds <= 1000 or not 0 < found.time <= 60 or not 0 <= found.threshold <= 1000:
        parser.error("--rounds is from 3 to 1000, --time up to 60 seconds, --threshold from 0 to 1000 percent")
    return found


def witness(trees: list[Path], wanted: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Lines on the instruction counts, or why there are none, and the entry points that grew."""
    if wanted.no_callgrind:
        return [], []
    if shutil.which("valgrind") is None:
        return ["", "instructions not counted: valgrind is not installed"], []
    try:
        with ThreadPoolExecutor() as pool:
            counts = list(pool.map(lambda tree: instructions(tree, wanted.select, wanted.path), trees))
    except InputError as error:
        return ["", f"instructions not counted: {error}"], []
    return instruction_table(counts)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    wanted = arguments(argv)
    try:
        with worktrees(wanted.base, wanted.head) as trees:
            sides = interleave(trees, wanted.select, wanted.path, wanted.rounds, wanted.time)
            comparison = judge(sides, 1 + wanted.threshold / 100)
            lines, grown = witness(trees, wanted)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(regression.markdown(comparison))
    print("\n".join([*lines, *(f"more instructions: {name}" for name in grown)]))
    if wanted.json:
        wanted.json.write_text(json.dumps(comparison.to_dict() | {"more_instructions": grown}, indent=1) + "\n")
    return 1 if comparison.regressions or grown else 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m bench.device --out rows.csv``: measures this accelerator, or the CPU with ``--device cpu``."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from pathlib import Path

from bench.device.cases import BYTES, COLUMNS, grid
from bench.device.timing import Backend, measure, row

HEADER = ",".join(("device", "software", "op", "dtype", *COLUMNS, "latency_us", "extra"))


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.device", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="CSV of rows; facts go beside it as .json")
    parser.add_argument("--device", default="auto", help="cuda, cuda:1, cpu; auto takes cuda, and stops without it")
    parser.add_argument("--name", default="", help="device column; default: what the framework calls it")
    parser.add_argument("--dtypes", default="bf16", help=f"comma-separated: {', '.join(BYTES)}")
    parser.add_argument("--seconds", type=float, default=540.0, help="stop after so long")
    parser.add_argument("--most-flops", type=float, default=float("inf"), help="skip larger cases")
    parser.add_argument("--quick", action="store_true", help="one small case per operator")
    given = parser.parse_args(argv)
    unknown = [dtype for dtype in given.dtypes.split(",") if dtype not in BYTES]
    if unknown:
        parser.error(f"unknown dtype {', '.join(unknown)}; known: {', '.join(BYTES)}")
    return given


def run(given: argparse.Namespace, backend: Backend, device: str, software: str, facts: dict[str, object]) -> int:
    """Measures all cases, writing each row at once; returns how many there are."""
    start, written = time.perf_counter(), 0
    skipped: dict[str, int] = {}
    cases = list(grid(tuple(given.dtypes.split(",")), given.most_flops, backend.free_bytes / 4, given.quick))
    with given.out.open("w", encoding="utf-8") as stream:
        stream.write(HEADER + "\n")
        for case in cases:
            if time.perf_counter() - start > given.seconds:
                skipped["out of time"] = len(cases) - written - sum(skipped.values())
                break
            try:
                line = row(case, measure(case, backend), device, software, COLUMNS)
            except (RuntimeError, NotImplementedError, ValueError) as error:  # a format or shape the device lacks
                reason = f"{case.op} {case.dtype}: {str(error).splitlines()[0][:120]}"
                skipped[reason] = skipped.get(reason, 0) + 1
                continue
            stream.write(line + "\n")
            stream.flush()
            written += 1
    today = datetime.date.today().isoformat()
    record = {"date": today, "rows": written, "skipped": skipped, **facts}
    given.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for reason, count in skipped.items():
        print(f"not measured: {count} x {reason}", file=sys.stderr)
    return written


def main(argv: list[str] | None = None) -> int:
    """Entry point; 1 when there is nothing to measure with."""
    given = arguments(argv)
    try:
        from bench.device.torch_backend import TorchBackend, torch
    except ImportError as error:
        print(f"PyTorch is not installed ({error}): pip install torch", file=sys.stderr)
        return 1
    if given.device == "auto" and not torch.cuda.is_available():
        print("no CUDA device; --device cpu tests the harness on the CPU", file=sys.stderr)
        return 1
    backend = TorchBackend("cuda" if given.device == "auto" else given.device)
    written = run(given, backend, given.name or backend.name, backend.software, backend.facts())
    print(f"{written} rows in {given.out}")
    return 0 if written else 1


if __name__ == "__main__":
    sys.exit(main())

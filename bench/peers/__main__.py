"""Command line of ``python -m bench.peers``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":  # read when the libraries are loaded, below
    for _name in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
        os.environ[f"{_name}_NUM_THREADS"] = "1"

from bench.peers import adapters, report
from bench.peers.suite import OPS, problems
from bench.peers.timing import measure
from npusim.errors import Finding, InputError


def main(arguments: list[str] | None = None) -> int:
    """Times what is asked for and prints it; 1 where our output is wrong, 2 for a request that cannot be met."""
    parser = argparse.ArgumentParser(
        "python -m bench.peers", description="Our kernels against the best installed peers."
    )
    parser.add_argument("--op", default=",".join(OPS), help=f"of {', '.join(OPS)}, by commas; or none")
    parser.add_argument("--shape", default="", metavar="REGEX", help="only these, as '4096|in cache'")
    parser.add_argument("--seconds", type=float, default=1.0, help="per shape (default 1); large ones take longer")
    parser.add_argument("--json", metavar="FILE", help="also write everything there")
    parser.add_argument("--with", metavar="FILE", nargs="+", default=[], dest="earlier", help="results of earlier runs")
    given = parser.parse_args(arguments)
    try:
        builds = problems(given.op.split(",") if given.op != "none" else [], given.shape)
        earlier = [result for file in given.earlier for result in report.load(Path(file))]
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    found = adapters.installed()
    print(report.heading(found), flush=True)
    results = []
    for build in builds:
        try:
            results.append(measure(build(), found.peers, given.seconds))
        except Finding as finding:
            print(f"our output is wrong: {finding}", file=sys.stderr)
            return 1
        print(report.line(results[-1]), flush=True)
    results = report.merged(earlier, results)
    print("\n" + report.summary(report.verdicts(results)))
    if given.json:
        Path(given.json).write_text(json.dumps(report.as_json(found, results), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

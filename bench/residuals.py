"""How far uncalibrated predictions were from measured times; writes ``npusim/catalog/residuals.yaml``.

    python -m bench.residuals [MEASURED_FOLDER]

Quantiles of measured / predicted per fidelity and kind of work, over a thinned sample of the measured tables. They
are what npusim prints beside a prediction that no calibration covers; only quantiles are kept, no rows. Runs of
llama.cpp are left out: it is no serving stack, and its layers take turns on the chips.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import step_sums
from bench.accuracy_results import MEASURED, thinned
from npusim.accuracy.rows import load_measured
from npusim.accuracy.trust import RESIDUALS
from npusim.accuracy.validation import validate

FIDELITIES = ("roofline", "tile")
FILES = {
    "end_to_end": (("llm_inference_bench/e2e.csv",), 3),
    "gemm": (("aiconfigurator/gemm.csv.gz", "ascend_910b/kernels.csv", "llmcompass_plus_jetson/kernels.csv"), 60),
    "attention": (("aiconfigurator/attention_prefill.csv.gz", "aiconfigurator/attention_decode.csv.gz"), 60),
    "experts": (("aiconfigurator/moe_ffn.csv.gz",), 40),
    "vector": (("vidur/linear_and_pointwise.csv.gz",), 97),
    "collective": (("aiconfigurator/collectives.csv",), 3),
}
KINDS = {"gemm": "gemm", "attention": "attention_", "experts": "moe_ffn", "collective": "all"}


@dataclass(frozen=True)
class Quantiles:
    """Quantiles of measured / predicted of one kind of work at one fidelity."""

    kind: str
    fidelity: str
    rows: int
    chips: tuple[str, ...]
    low: float
    middle: float
    high: float

    def yaml(self) -> str:
        """One line of the file."""
        return (
            f"  - {{kind: {self.kind}, fidelity: {self.fidelity}, rows: {self.rows}, low: {self.low:.3g}, "
            f"middle: {self.middle:.3g}, high: {self.high:.3g}, chips: [{', '.join(self.chips)}]}}"
        )


def quantiles(folder: Path) -> Iterator[Quantiles]:
    """Quantiles of every kind at every fidelity."""
    for kind, (files, step) in FILES.items():
        measured = thinned(load_measured([str(folder / file) for file in files]), step)
        for fidelity in FIDELITIES:
            print(f"  {kind} {fidelity}", flush=True)
            ratios, chips = [], set()
            for table in validate(measured, calibration="none", fidelity=fidelity).tables:
                ops = table.keys["op"]
                of_kind = np.array(
                    [str(op) != "linear" if kind == "vector" else KINDS.get(kind, "") in op for op in ops]
                )
                serving = np.array(["llama.cpp" not in str(name) for name in table.keys["software"]])
                at = table.priced & of_kind & serving & (table.predicted_s > 0)
                ratios.append(table.measured_s[at] / table.predicted_s[at])
                chips |= set(table.chip[at].tolist())
            low, middle, high = np.quantile(np.concatenate(ratios), [0.1, 0.5, 0.9])
            rows = sum(map(len, ratios))
            yield Quantiles(kind, fidelity, rows, tuple(sorted(chips)), float(low), float(middle), float(high))


def main() -> None:
    """Writes the file."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else MEASURED
    lines = [found.yaml() for found in quantiles(folder)]
    lines.insert(lines.index(next(line for line in lines if "end_to_end" not in line)), step_sums.table(folder))
    head = (
        "# Written by python -m bench.residuals: measured / predicted of uncalibrated predictions, 10, 50 and 90 %\n"
        "# quantiles over a sample of public measured tables. Our own measurement; no rows of the tables are kept.\n"
        "# Fidelity calibrated: operators by documents and tile, summed; no document describes the step.\n"
        "format: npusim-residuals/1\nresiduals:\n"
    )
    RESIDUALS.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"wrote {RESIDUALS}")


if __name__ == "__main__":
    main()

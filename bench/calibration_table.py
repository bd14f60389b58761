"""Prints the calibration documents of the catalog as a markdown table: python -m bench.calibration_table [FAMILY]."""

import sys

from npusim import calibration
from npusim.calibration import Calibration

HEAD = "| chip or class | software | op | dtype | rows | out of fold, mean | median | bias | 80 % interval |"


def line(document: Calibration) -> str:
    """One row: errors in percent, the interval as factors on the prediction."""
    found, (low, high) = document.cross_validation, document.interval_factors()
    name = document.chip if document.scope == "chip" else f"{document.chip} ({', '.join(document.chips)})"
    errors = f"{found.mape_pct:.1f} | {found.mdape_pct:.1f} | {found.bias_pct:+.1f}"
    head = f"| {name} | {document.software} | {document.op} | {document.dtype} | {document.rows}"
    return f"{head} | {errors} | {low:.2f}–{high:.2f} |"


def main(family: str = "") -> None:
    documents = [calibration.load_calibration(path) for path in calibration.catalog().values()]
    for title, scope in (("Chips", "chip"), ("Classes", "class")):
        print(f"\n{title}:\n\n{HEAD}\n|{'---|' * (HEAD.count('|') - 1)}")
        for document in documents:
            if document.scope == scope and document.family.startswith(family):
                print(line(document))


if __name__ == "__main__":
    main(*sys.argv[1:2])

"""Measured static batches beside sums of operators: plain tile model, calibrated operators, and ``step/1`` documents.

    python -m bench.step_sums [MEASURED_FOLDER]

Prints the mean absolute error, the bias and the 10, 50 and 90 % quantiles of measured / predicted per device and
software (llm_inference_bench, dense Llama models, 16 bits), and those over all as a line for
``npusim/catalog/residuals.yaml``. Documents ``step/1`` were fitted to these very rows: their cross-validated error is
beside it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from bench.accuracy import MEASURED
from npusim.accuracy.devices import chip_of, formats_of
from npusim.accuracy.end_to_end import timed
from npusim.accuracy.plain_end_to_end import model_of, summed
from npusim.accuracy.prediction import groups
from npusim.calibration import Calibrations
from npusim.chip import load_chip

MODELS = r"Llama-?[23].*-(7|8)[bB]"
# Programs of the table → whose kernels were measured one by one.
KERNELS = {"vLLM": "vllm", "TensorRT-LLM": "trtllm"}
CHIPS = ("a100", "h100")


def main() -> None:
    """Prints the table and the line."""
    print(table(Path(sys.argv[1]) if len(sys.argv) > 1 else MEASURED))


def table(folder: Path) -> str:
    """Prints errors per device and software of the tables in ``folder``; returns the line of residuals over all."""
    file = folder / "llm_inference_bench" / "e2e.csv"
    rows = timed(file, MODELS)
    auto, ratios, chips = Calibrations("auto"), [], set()
    print("device software rows | tile: mape bias | calibrated: mape bias q10 q50 q90")
    for (device, software), which in groups([rows.column("device"), rows.column("software")]):
        name, kernels = chip_of(device), next((k for n, k in KERNELS.items() if n.lower() == software.lower()), None)
        if name not in CHIPS or kernels is None:
            continue
        part = rows.select(which)
        measured = part.column("latency_s")
        predicted = {"tile": np.full(len(part), np.nan), "calibrated": np.full(len(part), np.nan)}
        text = np.array([f"{count:g}" for count in part.column("num_devices")], dtype=object)
        for (model_name, count, precision), at in groups([part.column("model"), text, part.column("precision")]):
            model, formats = model_of(model_name), formats_of(precision.partition("/")[0])
            if model is None or formats is None or formats.a not in ("fp16", "bf16"):
                continue
            figure = np.full(len(at), "request", dtype=object)
            common = (part.select(at), figure, load_chip(name), model, formats.a, int(float(count)), "tile")
            predicted["tile"][at] = summed(*common)
            predicted["calibrated"][at] = summed(*common, auto, kernels)
        good = np.isfinite(predicted["tile"])
        line = f"{name} {software} {int(good.sum())}"
        for label, seconds in predicted.items():
            error = seconds[good] / measured[good] - 1
            line += f" | {label} {100 * np.mean(np.abs(error)):.1f} {100 * np.mean(error):+.1f}"
        ratio = measured[good] / predicted["calibrated"][good]
        ratios.append(ratio)
        chips.add(name)
        print(line, *(f"{q:.2f}" for q in np.quantile(ratio, [0.1, 0.5, 0.9])), flush=True)
    low, middle, high = np.quantile(np.concatenate(ratios), [0.1, 0.5, 0.9])
    return (
        f"  - {{kind: end_to_end, fidelity: calibrated, rows: {sum(map(len, ratios))}, low: {low:.3g}, "
        f"middle: {middle:.3g}, high: {high:.3g}, chips: [{', '.join(sorted(chips))}]}}"
    )


if __name__ == "__main__":
    main()

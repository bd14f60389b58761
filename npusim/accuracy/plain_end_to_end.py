"""End-to-end runs as the sum of their steps: one prefill of the batch, then a decode step per output token.

Nothing is added for the host between operators, layers and steps: the gap to the measured time is what an end-to-end
calibration has to explain. The context grows by one token a step; steps are summed over panels of contexts.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import numpy as np

from npusim.accuracy.devices import formats_of
from npusim.accuracy.predicted import Predicted
from npusim.accuracy.prediction import chip_or_reason, groups
from npusim.accuracy.rows import EndToEndRows
from npusim.accuracy.table import Array, Floats
from npusim.calibration import Calibrations, Which
from npusim.chip import Chip
from npusim.cost import estimate
from npusim.errors import NpuError
from npusim.kperf_steps import panels
from npusim.llm import decode, prefill
from npusim.models import Model, load_model, model_names

# Same dimensions; they differ in rotary scaling and in the longest position only.
_SAME = {"llama-3-8b": "llama-3.1-8b", "llama-3-70b": "llama-3.1-70b", "llama2-70b": "llama-2-70b"}
_NOISE = re.compile(r"-(hf|chat|instruct|it|fp8|v0\.\d|\d{4})\b|^(meta|nvidia|amd)-")
METRICS = (("request", "latency_s", 1.0), ("first token", "ttft_ms", 1e-3), ("output token", "tpot_ms", 1e-3))


@lru_cache(maxsize=1024)
def model_of(name: str) -> Model | None:
    """The catalog model a name of the rows means, or None.

    >>> model_of("meta-llama/Meta-Llama-3-8B").name
    'llama-3.1-8b'
    """
    text = name.rpartition("/")[2].strip().lower().replace(" ", "-").replace("_", "-")
    while (shorter := _NOISE.sub("", text)) != text:
        text = shorter
    text = _SAME.get(text, text)
    return load_model(text) if text in model_names() else None


def predict_end_to_end(rows: EndToEndRows, override: Chip | None, fidelity: str) -> Predicted:
    """Prices static batches. Rows of one run become one per measured figure: request, first token, output token.

    Runs at a rate of arrivals, or whose lengths or batch are not stated, are not priced.
    """
    at, figure, measured = _measured(rows)
    spread = rows.select(at)
    keys = {"device": spread.column("device"), "op": figure, "dtype": spread.column("precision")}
    found = Predicted(spread, {**keys, "software": spread.column("software")}, measured)
    chips = spread.column("num_devices")
    stated = (spread.column("batch") >= 1) & (spread.column("input_len") >= 1) & (chips >= 1)
    stated &= (spread.column("output_len") >= 1) | (figure == "first token")
    found.reason[~stated] = "end-to-end rows without batch, lengths or number of devices"
    text_chips = np.array([f"{n:g}" for n in chips], dtype=object)
    for (device, name, precision, count), which in groups(
        [keys["device"], spread.column("model"), keys["dtype"], text_chips]
    ):
        which = which[stated[which]]
        chip, reason = chip_or_reason(device, override)
        model, formats = model_of(name), formats_of(precision.partition("/")[0] or "bf16")
        if chip is None or model is None or formats is None:
            unknown = f"no model of the catalog is called '{name}'" if model is None else f"number format '{precision}'"
            found.reason[which] = reason or unknown
        elif len(which):
            found.chip[which] = chip.name
            usable = fidelity if fidelity != "cycle" and not chip.missing(fidelity) else "roofline"
            try:
                for target, level in ((found.roofline_s, "roofline"), (found.predicted_s, usable)):
                    target[which] = summed(
                        spread.select(which), figure[which], chip, model, formats.a, int(float(count)), level
                    )
            except NpuError as error:
                found.predicted_s[which] = np.nan
                found.reason[which] = str(error).splitlines()[0][:160]
            found.model[which] = usable
            found.bound[which] = np.where(figure[which] == "output token", "memory", "compute")
    return found


def _measured(rows: EndToEndRows) -> tuple[Array, Array, Floats]:
    """Row index, figure name and seconds of every measured figure; runs with none of them keep one entry."""
    parts = []
    for name, column, unit in METRICS:
        values = rows.column(column)
        at = np.flatnonzero(values > 0)
        parts.append((at, np.full(len(at), name, dtype=object), values[at] * unit))
    at, figure, seconds = (np.concatenate(side) for side in zip(*parts, strict=True))
    silent = np.setdiff1d(np.arange(len(rows)), at)
    names = np.full(len(silent), "request", dtype=object)
    return (
        np.concatenate([at, silent]), np.concatenate([figure, names]),
        np.concatenate([seconds, np.full(len(silent), np.nan)]),
    )  # fmt: skip


def summed(
    rows: EndToEndRows, figure: Array, chip: Chip, model: Model, fmt: str, tp: int, fidelity: str | None,
    calibration: Which | Calibrations = "none", software: str | None = None,
) -> Floats:  # fmt: skip
    """Seconds of runs of one model and number of chips as the sum of the operators of their steps.

    Args:
        rows: runs.
        figure: what was timed of each: ``request``, ``first token`` or ``output token``.
        chip: the hardware.
        model: of all of them.
        fmt: number format of weights, activations and cache.
        tp: chips.
        fidelity: cost model of the operators, as for ``estimate``.
        calibration: documents that may price operators.
        software: whose kernels.
    """
    batch, prompt = (rows.column(name).astype(np.int64) for name in ("batch", "input_len"))
    output = np.maximum(np.nan_to_num(rows.column("output_len"), nan=1.0), 1).astype(np.int64)
    formats: dict[str, Any] = {"weights": fmt, "activations": fmt, "kv": fmt}
    allowed: dict[str, Any] = {"calibration": calibration, "software": software}
    first = estimate(prefill(model, batch=batch, prompt=prompt, tp=tp, **formats), chip, fidelity, **allowed).time_s
    middle, weight = panels(output - 1)
    context = prompt[:, None] + middle
    later = decode(model, batch=batch[:, None], context=context, tp=tp, **formats)
    step = estimate(later, chip, fidelity, **allowed).time_s
    mean_step = np.sum(np.broadcast_to(step, context.shape) * weight, axis=1)
    first = np.broadcast_to(first, batch.shape)
    total = first + (output - 1) * mean_step
    found: Floats = np.select([figure == "first token", figure == "output token"], [first, mean_step], total)
    return found

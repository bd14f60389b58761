"""Time of requests served in static batches, from the summed work of their operators and what lies between them.

A run is one prefill of the batch and a decode step per further output token. Each is priced from the work of its operators
at the data sheet's peaks: multiplying and streaming weights overlap (the longer counts), attention reads the cache of its
own sequences and is added, tensor-parallel chips exchange activations after every block. Around them lies time that no
operator explains: host work per step, a gap per layer (launches, synchronisation, small operators), sampling per sequence,
and a fixed time per request. Sequences whose caches do not fit the memory wait: the batch then runs in several waves.

Columns (seconds at peak, of one prefill of the whole batch and of one decode step at the mean context):
``prefill_matrix``, ``prefill_dram``, ``prefill_attention``, ``prefill_link`` and the same with ``decode_``;
``passes`` over the prompt, ``steps``, ``prefills`` (1, or 0 when the first token is not timed), ``layers``,
``exchanges`` per pass, ``sequences``, and bytes ``weights``, ``caches`` and ``memory`` of all chips together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from npusim.chip import Chip
from npusim.cost.calibrated.family import Dims, ParameterSpec, Times

WORK = ("matrix", "dram", "attention", "link")
COLUMNS = (
    *(f"{phase}_{part}" for phase in ("prefill", "decode") for part in WORK),
    "passes", "steps", "prefills", "layers", "exchanges", "sequences", "weights", "caches", "memory",
)  # fmt: skip
_LEAST_ROOM = 0.02  # of the memory, for caches, when the weights leave nothing
_MOST_WAVES = 64


@dataclass(frozen=True)
class Step:
    """``step/1``."""

    name: str = "step/1"
    parameters: tuple[ParameterSpec, ...] = (
        ParameterSpec("matrix", 0.05, 1, 0.4, "1", "sustained fraction of the matrix peak, weights at hand"),
        ParameterSpec("dram", 0.2, 1, 0.8, "1", "fraction of the memory bandwidth reached on weights"),
        ParameterSpec("attention", 0.02, 1, 0.6, "1", "fraction of peak and bandwidth reached by attention"),
        ParameterSpec("step_s", 1e-5, 0.1, 3e-3, "s", "host work per step"),
        ParameterSpec("layer_s", 1e-6, 1e-3, 2e-5, "s", "gap per layer between operators"),
        ParameterSpec("sequence_s", 1e-8, 5e-3, 1e-5, "s", "sampling and bookkeeping per sequence and step"),
        ParameterSpec("request_s", 1e-5, 3, 1e-2, "s", "fixed time of a request"),
        ParameterSpec("exchange_s", 1e-6, 1e-3, 2e-5, "s", "latency of an exchange between chips"),
        ParameterSpec("link", 0.01, 1, 0.3, "1", "fraction of the link's bandwidth"),
        ParameterSpec("memory", 0.3, 1.5, 0.8, "1", "fraction of the described memory that weights and caches may use"),
    )

    def seconds(self, chip: Chip, dtype: str, dims: Dims, parameters: Mapping[str, float]) -> Times:
        """Times of runs; ``bound`` is ``launch`` where time outside operators is more than half."""
        parts = self.parts(dims, parameters)
        time = sum(parts.values(), np.zeros(1))
        names = np.array(["launch", *(name for name in parts if name != "launch")], dtype=object)
        largest = np.argmax(np.stack([parts[name] for name in names]), axis=0)
        return Times(np.asarray(time), names[largest])

    def parts(self, dims: Dims, parameters: Mapping[str, float]) -> dict[str, np.ndarray]:
        """Seconds of each run in its linear operators (``matrix``), attention (``dram``), ``link``, and ``launch``."""
        p = parameters
        d = {name: np.asarray(dims[name], float) for name in COLUMNS}
        room = np.maximum(p["memory"] * d["memory"] - d["weights"], _LEAST_ROOM * d["memory"])
        waves = np.clip(d["caches"] / room, 1, np.minimum(np.maximum(d["sequences"], 1), _MOST_WAVES))
        linear = d["prefills"] * np.maximum(
            d["prefill_dram"] * d["passes"] * waves / p["dram"], d["prefill_matrix"] / p["matrix"]
        ) + d["steps"] * np.maximum(d["decode_dram"] * waves / p["dram"], d["decode_matrix"] / p["matrix"])
        attention = d["prefills"] * d["prefill_attention"] + d["steps"] * d["decode_attention"]
        runs = waves * (d["prefills"] * d["passes"] + d["steps"])
        moved = d["prefills"] * d["prefill_link"] + d["steps"] * d["decode_link"]
        outside = runs * (p["step_s"] + p["layer_s"] * d["layers"]) + p["sequence_s"] * d["sequences"] * d["steps"]
        return {
            "matrix": linear,
            "dram": attention / p["attention"],
            "link": moved / p["link"] + runs * d["exchanges"] * p["exchange_s"],
            "launch": outside + p["request_s"] * (d["prefills"] > 0),
        }


STEP = Step()

"""Fits and checks the power models on measured data; writes ``catalog/power/b200.yaml`` and ``docs/power-measured.md``.

    python -m bench.power [DATA_FOLDER]

Needs SciPy (the ``calibrate`` extra) and the measured tables; predicting needs neither.
"""

from __future__ import annotations

import csv
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import npusim as ns
from bench import published
from npusim.calibration import Calibration, CrossValidation, Parameter, Provenance, Residuals, save
from npusim.chip import chip_names, find_chip
from npusim.cost import measured_power as model
from npusim.cost.area import modelled_blocks
from npusim.cost.joules import joules
from npusim.cost.technology import load_technology

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
SHORTEST_S = 20e-6
FOLDS = 5
QUANTILES = {"q05": 0.05, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q95": 0.95}
_WEIGHT_OF_START = 0.01  # keeps parameters that a fold cannot see at their start


@dataclass(frozen=True)
class PowerRows:
    """Measured GEMM power: one array a column."""

    dtype: np.ndarray
    m: np.ndarray
    n: np.ndarray
    k: np.ndarray
    latency_s: np.ndarray
    power_w: np.ndarray

    @property
    def shapes(self) -> tuple[np.ndarray, ...]:
        """The arguments of the model."""
        return self.dtype, self.m, self.n, self.k, self.latency_s

    def select(self, index: np.ndarray) -> PowerRows:
        """Some of the rows."""
        return PowerRows(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def folds(self, seed: int = 0) -> np.ndarray:
        """Fold of every row; rows of one shape share a fold."""
        shape = np.stack([self.m, self.n, self.k], axis=1)
        _, which = np.unique(shape, axis=0, return_inverse=True)
        return np.random.default_rng(seed).integers(0, FOLDS, which.max() + 1)[which]


def gemm_rows(data: Path = DATA) -> PowerRows:
    """Rows of ``aiconfigurator/gemm_power.csv`` that last at least 20 microseconds."""
    with open(data / "measured" / "aiconfigurator" / "gemm_power.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))

    def column(name: str) -> np.ndarray:
        return np.array([float(row[name]) for row in rows])

    found = PowerRows(
        np.array([row["dtype"] for row in rows]), column("m"), column("n"), column("k"), column("latency_us") * 1e-6,
        column("power_w"),
    )  # fmt: skip
    return found.select(found.latency_s >= SHORTEST_S)


def fit(rows: PowerRows, slow: np.ndarray | None = None) -> dict[str, float]:
    """Parameters by robust least squares on log power, in logarithmic parameters within their bounds."""
    from scipy.optimize import least_squares

    names = [entry[0] for entry in model.PARAMETERS]
    low, high, start = (np.log([float(entry[i]) for entry in model.PARAMETERS]) for i in (1, 2, 3))

    def residuals(x: np.ndarray) -> np.ndarray:
        predicted = model.reading_w(*rows.shapes, dict(zip(names, np.exp(x), strict=True)), slow)
        return np.concatenate([np.log(predicted / rows.power_w), _WEIGHT_OF_START * (x - start)])

    found = least_squares(residuals, start, bounds=(low, high), loss="soft_l1", f_scale=0.1, max_nfev=200)
    return dict(zip(names, np.exp(found.x), strict=True))


def baseline(rows: PowerRows, fold: np.ndarray) -> np.ndarray:
    """Out-of-fold power of idle + J/FLOP + J/byte per dtype, by least squares on relative error."""
    flops, moved = model.gemm_traffic(*rows.shapes[:4])
    which = np.array([list(model.DTYPES).index(name) for name in rows.dtype])
    work = np.zeros((len(which), len(model.DTYPES)))
    work[np.arange(len(which)), which] = flops / rows.latency_s / 1e15
    features = np.column_stack([np.ones(len(which)), work, moved / rows.latency_s / 1e12])
    predicted = np.zeros(len(which))
    for f in range(FOLDS):
        seen = fold != f
        weighted = features[seen] / rows.power_w[seen, None]
        solution = np.linalg.lstsq(weighted, np.ones(int(seen.sum())), rcond=None)[0]
        predicted[~seen] = features[~seen] @ solution
    return predicted


def cross_validate(
    rows: PowerRows, fold: np.ndarray, slow: np.ndarray | None = None
) -> tuple[np.ndarray, list[dict[str, float]]]:
    """Out-of-fold readings and the parameters of every fold."""
    slow = model.slow_session(rows.dtype, rows.m) if slow is None else slow
    predicted, found = np.zeros(len(fold)), []
    for f in range(FOLDS):
        seen, unseen = fold != f, fold == f
        found.append(fit(rows.select(seen), slow[seen]))
        predicted[unseen] = model.reading_w(*rows.select(unseen).shapes, found[-1], slow[unseen])
    return predicted, found


def make_document(rows: PowerRows, predicted: np.ndarray, folds: list[dict[str, float]]) -> Calibration:
    """The calibration document: values of the fit to all rows, intervals over the folds."""
    values = fit(rows)
    units = {entry[0]: entry[4] for entry in model.PARAMETERS}
    parameters = {}
    for name, value in values.items():
        spread = [fold[name] for fold in folds]
        parameters[name] = Parameter(value=value, low=min(value, *spread), high=max(value, *spread), unit=units[name])
    error = predicted / rows.power_w - 1
    groups = {"all": np.ones(len(error), bool)} | {name: rows.dtype == name for name in model.DTYPES}
    return Calibration(
        format="npusim-calibration/1", chip="b200", software="trtllm-1.3.0rc15", op="gemm-power", dtype="any",
        family="gpu-power/1", parameters=parameters, rows=len(error),
        source=Provenance(
            dataset="github:ai-dynamo/aiconfigurator at 095f58a, GEMM of B200-SXM",
            what="power the driver reports while a GEMM repeats, W; rows of at least 20 us",
            how="mean of 100 ms samples over a bounded number of repetitions, 1000 W limit",
        ),
        cross_validation=CrossValidation(
            folds=FOLDS, mape_pct=100 * float(np.mean(abs(error))), mdape_pct=100 * float(np.median(abs(error))),
            bias_pct=100 * float(np.mean(error)),
        ),
        residuals={name: _residuals(rows.power_w[mask] / predicted[mask]) for name, mask in groups.items()},
        notes=("intervals are the range over the folds; the sessions are inferred from the readings",),
    )  # fmt: skip


def _residuals(ratio: np.ndarray) -> Residuals:
    return Residuals(rows=len(ratio), **{name: float(np.quantile(np.log(ratio), q)) for name, q in QUANTILES.items()})


# -- rows of other kinds, priced by the uncalibrated families -------------------------------------------------------

ML_ENERGY_MODELS = {
    "Qwen/Qwen3-235B-A22B-Instruct-2507": "qwen3-235b-a22b",
    "Qwen/Qwen3-235B-A22B-Instruct-2507-FP8": "qwen3-235b-a22b",
    "Qwen/Qwen3-30B-A3B-Instruct-2507": "qwen3-30b-a3b",
    "Qwen/Qwen3-30B-A3B-Thinking-2507": "qwen3-30b-a3b",
    "Qwen/Qwen3-Coder-30B-A3B-Instruct": "qwen3-30b-a3b",
    "Qwen/Qwen3-32B": "qwen3-32b",
    "Qwen/Qwen3-8B": "qwen3-8b",
    "google/gemma-3-27b-it": "gemma-3-27b",
    "meta-llama/Llama-3.1-405B-Instruct": "llama-3.1-405b",
    "meta-llama/Llama-3.1-405B-Instruct-FP8": "llama-3.1-405b",
    "meta-llama/Llama-3.1-70B-Instruct": "llama-3.1-70b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "meta-llama/Llama-3.3-70B-Instruct": "llama-3.3-70b",
    "openai/gpt-oss-120b": "gpt-oss-120b",
    "openai/gpt-oss-20b": "gpt-oss-20b",
}
_PROMPT = 512  # the tables do not give the input length


@dataclass(frozen=True)
class Watts:
    """One measured row and the power both families give it, W per chip."""

    device: str
    measured: float
    by_family: dict[str, float]


def _average_w(cost: ns.Cost, seconds: float, family: str) -> float:
    """Standing power and the joules of a step's events over the measured time of the step, within the TDP."""
    constants = joules(cost.chip, family)
    events = sum(float(sum(constants.parts(op, cost.chip).values())) for op in cost.ops)
    limit = cost.chip.power.tdp_w or np.inf
    return float(min(constants.standing_w + events / seconds, limit))


def serving(data: Path = DATA) -> Iterator[Watts]:
    """Steady serving (ML.ENERGY): a decode step at the average batch over the measured inter-token latency."""
    with open(data / "measured" / "ml_energy" / "e2e.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        extra = dict(item.split("=", 1) for item in row["extra"].split(";") if "=" in item)
        name = ML_ENERGY_MODELS.get(row["model"])
        if name is None or not extra.get("avg_power_w") or not row["tpot_ms"] or int(extra.get("dp", 1)) > 1:
            continue
        fmt = "fp8" if row["model"].endswith("FP8") or row["precision"].startswith("fp8") else "bf16"
        chips = int(row["num_devices"])
        context = _PROMPT + int(float(row["output_len"] or 512)) // 2
        try:
            work = ns.decode(
                ns.load_model(name), batch=max(1, round(float(extra["avg_batch"]))), context=context, weights=fmt,
                activations=fmt, tp=chips,
            )  # fmt: skip
        except ns.errors.NpuError:
            continue  # heads or experts that such a degree cannot divide
        cost = ns.estimate(work, row["device"].lower())
        seconds = float(row["tpot_ms"]) / 1e3
        watts = {family: _average_w(cost, seconds, family) for family in ("tdp", "bottom-up")}
        yield Watts(row["device"], float(extra["avg_power_w"]) / chips, watts)


def batches(data: Path = DATA) -> Iterator[Watts]:
    """Static batches with average power of the published rows, over their measured latency."""
    rows = published.rows(data / "facts" / "published.json")
    simple = published.power(rows)
    for item, energy in zip(simple, _batch_joules(rows), strict=True):
        chip = energy["chip"]
        events_w = energy["events_j"] / item.row["latency_s"] / item.row["chips"]
        bottom = min(joules(chip).standing_w + events_w, chip.power.tdp_w)
        yield Watts(item.row["device"], item.measured, {"tdp": item.predicted, "bottom-up": bottom})


def _batch_joules(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Events of the whole batch, all chips, in the order of ``published.power``."""
    for row in rows:
        if row["device"] not in published.STATIC_CHIPS or not row.get("avg_power_W") or not row.get("latency_s"):
            continue
        chip = ns.load_chip(published.STATIC_CHIPS[row["device"]])
        net = ns.load_model(published.STATIC_MODELS[row["model"]])
        tp, steps = row["chips"], row["output_len"] - 1
        constants = joules(chip)
        middle, weight = published.panels(np.array([steps]))
        first = ns.estimate(ns.prefill(net, batch=row["batch"], prompt=row["input_len"], tp=tp), chip)
        step = ns.estimate(ns.decode(net, batch=row["batch"], context=row["input_len"] + middle[0], tp=tp), chip)
        once = sum(float(sum(constants.parts(op, chip).values())) for op in first.ops)
        each = sum(sum(constants.parts(op, chip).values()) for op in step.ops)
        yield {"chip": chip, "events_j": tp * (once + steps * float(np.sum(each * weight[0])))}


# Kernels of the AccelWattch table, as its power and its counter files call them.
VOLTA_KERNELS = {
    "btree_k1": "findRangeK", "btree_k2": "findK", "backprop_k1": "layerforward", "backprop_k2": "adjust_weights",
    "hotspot_k1": "calculate_temp", "kmeans_k1": "kmeansPoint", "srad_v1_k1": "4srad", "parboil_sad_k1": "mb_sad_calc",
    "parboil_sgemm_k1": "mysgemm", "parboil_mriq_k1": "ComputeQ", "dct8x8_k1": "CUDAkernel1DCT",
    "dct8x8_k2": "CUDAkernel2DCT", "binomialOptions_k1": "binomialOptionsKernel", "histogram_k1": "histogram64",
    "fastWalshTransform_k1": "fwtBatch1", "fastWalshTransform_k2": "fwtBatch2", "mergeSort_k1": "mergeSortShared",
    "mergeSort_k2": "mergeElementary", "quasirandomGenerator_k1": "quasirandomGeneratorKernel",
    "quasirandomGenerator_k2": "inverseCND", "sobolQRNG_k1": "sobolGPU",
}  # fmt: skip
_SECTOR_BYTES = 32
_LINE_BYTES = 128


def kernels(data: Path = DATA) -> Iterator[Watts]:
    """CUDA-core kernels of a V100: its counters as events of the bottom-up family; matrix kernels have no counter."""
    folder = data / "measured" / "gpu_power_accelwattch"
    with open(folder / "hw_perf.csv", newline="") as stream:
        counters = list(csv.DictReader(stream))
    with open(folder / "hw_power_validation_volta.csv", newline="") as stream:
        watts = {row["Unnamed: 0"]: float(row["mean HW_power"]) for row in csv.DictReader(stream)}
    chip = ns.load_chip("v100")
    constants, clock = joules(chip), chip.clock_hz or 0.0
    vector_w = (chip.vector_ops_per_s("add") or 0.0) * constants.vector_op_j
    for name, part in VOLTA_KERNELS.items():
        row = next((r for r in counters if part in r["Kernel"]), None)
        if row is None or name not in watts:
            continue
        seconds = float(row["Elapsed_Cycles"]) / clock
        dram = _SECTOR_BYTES * (float(row["DRAM_Rd"]) + float(row["DRAM_Wr"]))
        l2 = _SECTOR_BYTES * sum(float(row[key]) for key in ("L2_RH", "L2_RM", "L2_WH", "L2_WM"))
        l1 = _LINE_BYTES * float(row["SHRD_ACC"]) + _SECTOR_BYTES * sum(
            float(row[key]) for key in ("L1_RH", "L1_RM", "L1_WH", "L1_WM")
        )
        moved_j = dram * (constants.dram_byte_j + constants.fabric_byte_j) + l2 * constants.level_byte_j["l2"]
        moved_j += l1 * constants.level_byte_j["l1"]
        power = constants.standing_w + moved_j / seconds + float(row["Pipeline_Duty"]) * vector_w
        yield Watts("V100", watts[name], {"bottom-up": min(power, chip.power.tdp_w or power)})


# -- the page -------------------------------------------------------------------------------------------------------


def _errors(pairs: list[tuple[float, float]]) -> str:
    ratio = [predicted / measured - 1 for predicted, measured in pairs]
    return (
        f"{100 * statistics.mean(abs(r) for r in ratio):.1f} % | "
        f"{100 * statistics.median(abs(r) for r in ratio):.1f} % | "
        f"{100 * statistics.mean(ratio):+.1f} %"
    )


def _table(rows: list[Watts]) -> list[str]:
    lines = ["| device | rows | energy family | mean error | median | bias |", "|---|---:|---|---:|---:|---:|"]
    groups: dict[str, list[Watts]] = defaultdict(list)
    for row in rows:
        groups[row.device].append(row)
    for device, members in groups.items():
        for family in members[0].by_family:
            pairs = [(row.by_family[family], row.measured) for row in members]
            lines.append(f"| {device} | {len(members)} | {family} | {_errors(pairs)} |")
    return lines


def gemm_section(rows: PowerRows, fold: np.ndarray, predicted: np.ndarray) -> list[str]:
    """Errors of the fitted model on shapes it has not seen, and its constants."""
    plain, found = baseline(rows, fold), model.document()
    by_format, _ = cross_validate(rows, fold, np.isin(rows.dtype, model.SLOW_DTYPES))
    one, _ = cross_validate(rows, fold, np.zeros(len(fold), bool))
    variants = [100 * float(np.mean(abs(other / rows.power_w - 1))) for other in (by_format, one)]
    lines = [
        "## GEMM on a B200, fitted",
        "",
        f"{len(rows.power_w)} rows of at least 20 us (aiconfigurator, TensorRT-LLM), five folds over shapes: every row",
        "is predicted from constants that never saw its shape. The measured latency is an input.",
        f"{len(model.PARAMETERS)} parameters.",
        "",
        "| rows | model: mean error | median | bias | idle + J/FLOP + J/byte |",
        "|---|---:|---:|---:|---:|",
    ]
    for name in ("all", *model.DTYPES):
        mask = np.ones(len(predicted), bool) if name == "all" else rows.dtype == name
        pairs = list(zip(predicted[mask].tolist(), rows.power_w[mask].tolist(), strict=True))
        naive = 100 * float(np.mean(abs(plain[mask] / rows.power_w[mask] - 1)))
        lines.append(f"| {name} ({mask.sum()}) | {_errors(pairs)} | {naive:.1f} % |")
    lines += ["", "| constant | value | range over folds | unit | meaning |", "|---|---:|---|---|---|"]
    for name, _, _, _, unit, meaning in model.PARAMETERS:
        p = found.parameters[name]
        lines.append(f"| `{name}` | {p.value:.3g} | {p.low:.3g} to {p.high:.3g} | {unit} | {meaning} |")
    return [
        *lines,
        "",
        "Which rows were sampled slowly is our inference, made on all rows: the data name no sessions. With",
        f"sessions by format alone (bf16 and fp8 fast) the mean error is {variants[0]:.1f} %, with one session for all",
        f"rows {variants[1]:.1f} %.",
    ]


PUBLIC_DIES = ("a100", "rngd", "rebel-quad", "warboy", "ion")
OTHER_DIES = (
    "v100", "t4", "a40", "h100", "l40s", "l4", "rtx-4090", "rtx-pro-6000", "mi100", "mi210", "arc-pro-b60", "tpu-v3",
    "tpu-v4", "wormhole-n150",
)  # fmt: skip


def die_ratio(name: str) -> float:
    """Stated silicon over the sum of the modelled blocks."""
    chip = find_chip(name)
    assert chip.area is not None and chip.area.die_mm2 is not None
    blocks, _ = modelled_blocks(chip, load_technology())
    return chip.area.die_mm2 * chip.area.dies / sum(blocks.values())


def leave_one_out() -> dict[str, float]:
    """Relative error of each public die, the uncore share being the geometric mean over the other four."""
    logs = {name: math.log(die_ratio(name)) for name in PUBLIC_DIES}
    return {
        name: math.exp(statistics.mean(v for other, v in logs.items() if other != name) - logs[name]) - 1
        for name in PUBLIC_DIES
    }


def area_section() -> list[str]:
    """Modelled against stated die areas."""
    errors = leave_one_out()
    mean = 100 * statistics.mean(abs(e) for e in errors.values())
    lines = [
        "## Die area",
        "",
        "One die; the uncore share is fitted on the other four, everything else is a constant of the technology file.",
        f"The mean error is {mean:.0f} %, the largest {100 * max(map(abs, errors.values())):.0f} %. The constants were",
        "chosen with these dies in view.",
        "",
        "| die | stated mm2 | blocks mm2 | left out: error | parts the file does not state |",
        "|---|---:|---:|---:|---|",
    ]
    for name in PUBLIC_DIES:
        chip = find_chip(name)
        assert chip.area is not None and chip.area.die_mm2 is not None
        blocks, guessed = modelled_blocks(chip, load_technology())
        lines.append(
            f"| {name} | {chip.area.die_mm2:.1f} | {sum(blocks.values()) / chip.area.dies:.0f} | "
            f"{100 * errors[name]:+.0f} % | {', '.join(guessed) or '-'} |"
        )
    share = load_technology().area.uncore_share
    others = {name: 1 / (die_ratio(name) * (1 - share)) - 1 for name in OTHER_DIES}
    mean = 100 * statistics.mean(abs(e) for e in others.values())
    shown = ", ".join(f"{name} {100 * e:+.0f} %" for name, e in others.items())
    return [
        *lines,
        "",
        f"Dies that no constant was chosen on, at the share of the file: mean error {mean:.0f} %: {shown}.",
    ]


def peak_section() -> list[str]:
    """Bottom-up power at the engine's peak against the TDP."""
    ratios = []
    for name in chip_names():
        chip = find_chip(name)
        if chip.power.tdp_w is None or chip.missing() or chip.core.matrix is None or chip.category == "design":
            continue
        try:
            watts = joules(chip)
        except ns.errors.NpuError:
            continue  # no process node
        rate = next((r for r in ("bf16", "fp16", "int8", "fp32") if r in chip.peaks_flops_per_s), None)
        if rate is not None:
            dynamic = chip.peaks_flops_per_s[rate] * (watts.flop_j[rate] + watts.operand_flop_j[rate])
            ratios.append((name, (watts.standing_w + dynamic) / chip.power.tdp_w))
    values = sorted(value for _, value in ratios)
    quartiles = statistics.quantiles(values, n=4)
    return [
        "## Power at the peak, before any cap",
        "",
        "Bottom-up power at the engine's peak (bf16, or fp16 or int8 where there is none) over the TDP of",
        f"{len(values)} public chips: median {quartiles[1]:.2f}, half of them between {quartiles[0]:.2f} and "
        f"{quartiles[2]:.2f}. A chip above 1",
        "is one that lowers its clock, or one that the constants overrate; both happen.",
    ]


def other_sections(data: Path) -> list[str]:
    """Measurements that no constant was fitted to."""
    return [
        "## Other power measurements, not fitted",
        "",
        "Joules of the events over the measured time, plus standing power, at most the TDP. One constant of the",
        "bottom-up family, what a GPU spends to load a byte, was chosen with readings of V100, A100, H100 and B200 in",
        "view.",
        "",
        "Serving at steady load (ML.ENERGY v3, vLLM): a decode step at the average batch, prompts of 512 assumed.",
        "",
        *_table(list(serving(data))),
        "",
        "Static batches with average power (argonne-lcf/LLM-Inference-Bench, `published.json`). The static share of",
        "the `tdp` family was chosen with these rows in view.",
        "",
        *_table(list(batches(data))),
        "",
        "Kernels of a V100 without matrix work (AccelWattch), from their hardware counters:",
        "",
        *_table(list(kernels(data))),
    ]


def page(rows: PowerRows, fold: np.ndarray, predicted: np.ndarray, data: Path) -> str:
    """The page as Markdown."""
    sections = (gemm_section(rows, fold, predicted), other_sections(data), peak_section(), area_section())
    head = [
        "# Power and area against measurements",
        "",
        "Generated by `python -m bench.power`; do not edit. Models and constants:",
        "[power-area-cost.md](power-area-cost.md).",
    ]
    return "\n".join([*head, *(line for section in sections for line in ("", *section)), ""])


def main() -> None:
    """Fits, writes the document and the page."""
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    rows = gemm_rows(data)
    fold = rows.folds()
    predicted, folds = cross_validate(rows, fold)
    written = save(make_document(rows, predicted, folds), model.POWER)
    written.replace(model.POWER / "b200.yaml")
    model.document.cache_clear()
    out = ROOT / "docs" / "power-measured.md"
    out.write_text(page(rows, fold, predicted, data))
    print(f"wrote {out}")


if __name__ == "__main__":
    main()

"""K-Perf rows under load: each row's closed loop run request by request, for the percentiles that averages hide.

The K-Perf metric prices a loop of C requests as prompts one by one and decode steps of all C. Here the same requests go
through the serving engine: prompts in chunks among the decodes of others, with a paged cache. The first C requests
start together and are left out of the figures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from npusim.chip import Chip
from npusim.errors import DoesNotFit
from npusim.kperf_suite import LOAD_COLUMNS, KPerf, chip_labels
from npusim.llm import precision as named_precision
from npusim.models import Model, load_model
from npusim.serving.answer import Case
from npusim.serving.engine import VLLM
from npusim.serving.load import Arrivals, Lengths, Synthetic
from npusim.serving.metrics import Digest, Slo
from npusim.serving.placement import Placement
from npusim.serving.steps import UNFITTED

ROUNDS = 2  # of C requests in the figures, after one that is left out
LEAST = 50  # requests in the figures


def under_load(
    result: KPerf, slo: Slo | None = None, models: tuple[Model, ...] = (), progress: Callable[[str], None] | None = None
) -> KPerf:
    """The table with ``LOAD_COLUMNS`` filled.

    Args:
        result: a K-Perf table.
        slo: what counts as good (None: the first MLPerf limits that the suite lists for the model; where it lists
            none, there is no goodput).
        models: the networks, where they are not those of the catalog.
        progress: called with a label after each chip, model and precision.

    Raises:
        InputError: the table was priced at a fidelity that steps are not.
    """
    chips = dict(zip(chip_labels(result.chips), result.chips, strict=True))
    nets = {model.name: model for model in models}
    rows: list[dict[str, Any]] = []
    before: tuple[Any, ...] | None = None
    for row in result.rows:
        case = (row["chip"], row["model"], row["precision"])
        if progress and before not in (None, case):
            progress(" ".join(map(str, before or ())))
        before = case
        empty: dict[str, Any] = {key: None for key, *_ in LOAD_COLUMNS}
        if row["fits"]:
            net = nets.get(row["model"]) or load_model(row["model"])
            empty |= _figures(result, row, chips[row["chip"]], net, slo or _first_limit(result, net))
        rows.append(row | empty)
    return replace(result, rows=tuple(rows), load=True, notes=(*result.notes, _note(slo)))


def _note(slo: Slo | None) -> str:
    limits = "the first MLPerf limits of each model in the suite"
    if slo is not None:
        limits = ", ".join(f"{name} {value:g}" for name, value in slo.to_dict().items())
    return (f"Under load: a closed loop of C requests through the serving engine ({VLLM.max_tokens} new tokens a step, "
            f"blocks of {VLLM.block_tokens}): {ROUNDS} rounds of C requests or more, after one left out; goodput "
            f"counts requests within {limits}.")  # fmt: skip


def _first_limit(result: KPerf, net: Model) -> Slo | None:
    for limit in result.suite.mlperf_limits.get(net.name, {}).values():
        return Slo(limit.ttft_s, limit.tpot_s)
    return None


def _figures(result: KPerf, row: dict[str, Any], chip: Chip, net: Model, slo: Slo | None) -> dict[str, Any]:
    """The columns of one row; nothing when its longest request does not fit in whole blocks."""
    level = int(row["concurrency"])
    sequences = max(result.suite.max_concurrency, level)
    rules = replace(VLLM, max_tokens=max(VLLM.max_tokens, sequences), max_sequences=sequences)
    longest = max(result.suite.longest_request, row["input_tokens"] + row["output_tokens"])
    case = Case(net, chip, row["precision"], named_precision(row["precision"]), Placement(row["tp"]), rules,
                result.fidelity, UNFITTED, longest)  # fmt: skip
    count = level * (1 + max(ROUNDS, -(-LEAST // level)))  # whole rounds: none is half empty
    prompt, output = (Lengths("fixed", float(row[key])) for key in ("input_tokens", "output_tokens"))
    try:
        _, digest = case.run(Synthetic(Arrivals("closed", concurrency=level), prompt, output, count), slo, keep=True)
    except DoesNotFit:
        return {}
    records = np.concatenate(digest.records)
    steady = records[records["id"] >= level]
    figures = Digest(slo)
    figures(steady)
    span_s = float(steady["last"].max() - np.sort(records["last"])[level - 1])
    good = {} if slo is None else {"load_goodput_tokens_per_s": figures.good_tokens / span_s,
                                   "load_attainment": figures.attainment}  # fmt: skip
    tpot = {f"load_tpot_p{100 * q:g}_s": figures.tpot.at(q) for q in (0.5, 0.99)}
    return {
        **{f"load_ttft_p{100 * q:g}_s": figures.ttft.at(q) for q in (0.5, 0.99)},
        **{key: None if np.isnan(value) else value for key, value in tpot.items()},
        "load_tokens_per_s": figures.output_tokens / span_s,
        **good,
    }

"""The page that ``bench.serving_accuracy`` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.serving_accuracy import Result

HEAD = """# The serving engine against measured throughput

Written by `python -m bench.serving_accuracy`; do not edit. Error = predicted / measured - 1 of output tokens per
second, in percent; a row of the table is one group of runs.

- **chip file alone**: `npusim serve` as it is without options (`--calibration none`); empty where it
  predicts nothing.
- **auto**: `--calibration auto`. Operators are priced by calibration documents of measured kernels, of the chip where
  it was measured (*calibrated*), otherwise of its class (*transferred*); host time and the share of memory in use
  come from `catalog/serving/constants.yaml`. Kernels were measured one by one on other occasions; no run below
  entered them.
- **kept aside**: as auto, but what was fitted on runs of this table was fitted without this chip (static batches:
  host time, three constants) or this model (maximum load: the share of memory). Empty: nothing was fitted on such
  runs, auto itself is kept aside. MLPerf took no part in any fit, and H200, GH200 and MI300X have no measured kernels
  either. MLPerf groups without a program ran TensorRT-LLM.

Your own rows: `npusim validate --engine ROWS.csv` (columns in `docs/validation.md`)."""

ASSUMED = """## Assumed, because the sources do not state it

- Batches up to 2048 sequences at maximum load, up to 1024 in MLPerf; as many new tokens a step as keep them full,
  2048 to 8192. TensorRT-LLM's benchmark tool sizes its engines likewise.
- fp8 weights, activations and cache where a table says FP8; MLPerf: the smallest format of the chip (v4.1: fp8, on
  Blackwell nvfp4), lengths as in `catalog/serving/mlperf.yaml`, samples repeated for 600 s, the best split of the
  chips by offline throughput, one replica times the replicas. The program is the `framework` of the submission's
  description: vLLM for AMD's (0.4.3) and where the name of the system says so, TensorRT-LLM otherwise.
- GH200 with 144 GB is the catalog's chip with that memory; its bandwidth is not stated in the name and stays.
- `llm_inference_bench` A100: the board with 40 GB, because the waves in which 64 sequences run fit no other.

## Left out, and why

- `llm_inference_bench`: llama.cpp (its batch is not one of sequences), rows with one output token (they repeat the
  latency of the row with as many as the prompt has), models without a catalog file.
- `splitwise_sim`: outputs from 1024 tokens on, whose latency falls with the length: those runs ended before. BLOOM.
- MLPerf: NVL (ESC4000A too, by its description), PCIe and power-limited boards, names that state no count, more than
  eight chips (copies), GPT-J (no tokens per second). Vendor tables of TensorRT-LLM 0.x: some state tokens per GPU
  without saying so.

## Causes that were found

- **All-reduces at tp 8** explain Llama 3.1 405B: 253 of them a step at 13 MB each take 26 ms by the measured kernels
  and 13 ms by the link's bandwidth alone; fp8 matrix products of 400 rows take 42 ms instead of 30. The chip file
  alone was a third to four fifths too fast, most where outputs are long.
- **Batch limits** of the vendor's runs follow from the cache, not from a constant, and steps take 2048 new tokens,
  not 8192.
- **H200 and GH200 against H100**: one pair of constants for compute and memory could not serve both, since it hid the
  exchanges of H100 at tp 2 that one H200 does not have. The GH200 results are of boards with 144 GB, the chip file
  has 96.
- **Memory**: 80 GB boards hold 80 GiB, and programs use 90 to 95 % of it; `usable` 0.95 of the stated figure is both.
- **Static batches of 2023 and 2024**: host time per step, per exchange (growing with the chips) and per sequence.
- **Mixtral**: expert layers are priced as the fused row that was measured, the layer of Mixtral on H100 within 10 % of
  it. The submissions' configuration is that of the prediction (one chip a replica, fp8, up to 896 sequences on H100).
  By Little's law a Server step on H100 has 657 sequences and 1700 prompt tokens and took 103 ms (the logs' TPOT), here
  60; on H200 1034 and 2600, 144 ms, here 64. Expert layers are two thirds of that by kernels of TensorRT-LLM 1.3
  (2026), and programs differ most there: 2048 tokens take 1.1 ms by them, 2.1 by SGLang's and 5.1 by vLLM's, while 2.5
  would explain the step. By SGLang's kernels 8 H100 serve 0.66 of the tokens (`--software sglang-0.5.14`, 256
  sequences: 27,600/s for 41,600). Those of the round (2024) were not measured one by one. GSM8K's prompts carry worked
  examples (662 tokens in the one row that was seen); the mean length is assumed.
- **MI300X**: its submissions ran vLLM, whose host time per step and sequence is known; priced as a program without any,
  as before, they were 14 and 21 % too fast.
- **splitwise_sim**: one run on each chip, Llama 2 70B on two chips with 64 sequences, is 5 times too fast: weights
  take 140 of 160 GB, the caches of 64 sequences do not fit beside them, and the program of 2023 took 160 s where 32
  sequences took 18. The engine recomputes a few evicted sequences instead. Without that run the mean absolute errors
  are 9 % (A100) and 5 % (H100); the medians show it.
- **L40S**: the submission splits layers over four chips. All-reduces measured on another host (2.7 ms for 8 MB, 3 GB/s)
  would make 85 % of such a step and predict a third of what was measured; the submission's machine joins its boards by
  a fabric of its own. The best split found here has four stages and no such all-reduces. NeuralMagic's vLLM runs on
  L40S used the reference harness as it is.
- **B200**: kernels were measured with software of 2026; the submissions are previews of 2024. Offline is within 5 %.
- Four H100 are 12 % slower a chip than eight in the same round (such boards join pairs directly, without a switch; not
  tested). MLPerf Server is up to 10 points above Offline: submissions leave a margin.
- Not explained: Gaudi2, MI250, Max 1550 and DeepSpeed in `llm_inference_bench`, where programs reach a small part of
  what the chips can do and no such program was fitted."""


def _percent(value: float | None, sign: bool = False) -> str:
    return "" if value is None else f"{value:+.1f}" if sign else f"{value:.1f}"


QUOTED = """## What an answer quotes

`npusim serve --calibration auto` names the error of its program and state (`errors_pct` of
`catalog/serving/constants.yaml`): *calibrated*, mean absolute error of the runs its constants were fitted on;
*transferred*, of the same runs kept aside; for trtllm, whose host time is zero, of the MLPerf runs of Llama 2 above in
that state. Of models with experts it names none.

| program | calibrated | transferred |
|---|---|---|"""


def document(
    found: Sequence[Result], figures: Mapping[str, Mapping[str, Any]], errors: Mapping[str, Mapping[str, float]]
) -> str:
    """The page as Markdown.

    Args:
        found: all runs.
        figures: errors by group.
        errors: by program and state.
    """
    lines = [HEAD, "", "| group | runs | chip file alone | auto: mean | **auto: mean abs.** | auto: median abs. | "
             "**kept aside** | state |", "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, row in figures.items():
        aside = "" if row["aside"] is None else f"**{_percent(row['aside'])}**"
        lines.append(
            f"| {name} | {row['predicted']} of {row['runs']} | {_percent(row['alone'])} | "
            f"{_percent(row['mean'], True)} | **{_percent(row['auto'])}** | {_percent(row['median'])} | {aside} | "
            f"{row['state']} |"
        )
    lines += ["", QUOTED]
    lines += [f"| {name} | {row['calibrated']:.1f} | {row['transferred']:.1f} |" for name, row in errors.items()]
    lines += ["", "## Runs at maximum load and scenarios", "", "| group | run | measured, tokens/s | chip file alone | "
              "auto | kept aside |", "|---|---|---|---|---|---|"]  # fmt: skip
    for one in found:
        seen = one.auto.seen
        if seen.batch is None:
            run = seen.label if seen.scenario else f"{seen.chips} chips, {seen.input}/{seen.output}"
            lines.append(
                f"| {one.group} | {run} | {seen.tokens_per_s:,.0f} | {_percent(one.alone.error_pct, True)} | "
                f"{_percent(one.auto.error_pct, True) or one.auto.reason} | {_percent(one.aside, True)} |"
            )
    return "\n".join([*lines, "", ASSUMED]) + "\n"

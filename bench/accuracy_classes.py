"""The classes of the accuracy scoreboard: which measured rows belong to each, its target, and what peers publish."""

from __future__ import annotations

import re
from dataclasses import dataclass

from npusim.accuracy.validation import Group


@dataclass(frozen=True)
class AccuracyClass:
    """Rows that are judged together.

    Args:
        name: as printed.
        files: measured tables it takes rows from.
        device: pattern a device must match as a whole; op, dtype, software likewise.
        target_pct: mean absolute error it should reach on rows not fitted; None: the error is only reported.
        floor: what gradient boosting on shape features reaches in the same folds, or "".
        thin: takes every so-many-th row only (a class without a target, whose rows all need a mapping search).
        baseline: table of the published baselines, and a pattern its groups must match as a whole.
    """

    name: str
    files: tuple[str, ...]
    device: str
    op: str
    dtype: str = ".*"
    software: str = ".*"
    target_pct: float | None = None
    floor: str = ""
    baseline: tuple[str, str] = ("", "")
    thin: int = 1

    def holds(self, group: Group) -> bool:
        """Whether the rows of a group belong to the class."""
        pairs = ((self.device, group.device), (self.op, group.op), (self.dtype, group.dtype))
        return all(re.fullmatch(pattern, text) for pattern, text in (*pairs, (self.software, group.software)))


GEMM = ("aiconfigurator/gemm.csv.gz",)
GEMM_TABLE = "aiconfigurator/gemm"
VIDUR = ("vidur/linear_and_pointwise.csv.gz",)
ASCEND = ("ascend_910b/kernels.csv",)
TPU = ("tpu_v4_scalesim/kernels.csv",)
JETSON = ("llmcompass_plus_jetson/kernels.csv",)
STACKS = r"(trtllm|sglang).*"
COLLECTIVES = ("aiconfigurator/collectives.csv", "ascend_910b/collectives.csv")
END_TO_END = ("llm_inference_bench/e2e.csv",)


def _gemm(device: str, name: str, target: float, floor: str, dtype: str = "bfloat16") -> AccuracyClass:
    stacks = "trtllm|sglang|vllm" if dtype == "bfloat16" else "trtllm"
    return AccuracyClass(
        name, GEMM, device, "gemm", dtype, rf"({stacks}).*", target, floor, (GEMM_TABLE, rf"{dtype}/({stacks})")
    )


def _attention(op: str, name: str, target: float, floor: str = "") -> AccuracyClass:
    table = f"aiconfigurator/{op}"
    return AccuracyClass(name, (f"{table}.csv.gz",), ".*", op, ".*", ".*", target, floor, (table, ".*"))


CLASSES: tuple[AccuracyClass, ...] = (
    AccuracyClass(
        "H100 bf16 GEMM (trtllm, sglang)", GEMM, "H100-SXM", "gemm", "bfloat16", STACKS, 6.5, "3.8–5.3",
        (GEMM_TABLE, "bfloat16/(trtllm|sglang)"),
    ),
    _gemm("A100-SXM4-80GB", "A100 bf16 GEMM", 8, "4.8"),
    _gemm("B200-SXM", "B200 bf16 GEMM", 8, "5.2"),
    _gemm("L40S", "L40S bf16 GEMM", 12, "7.5"),
    _gemm("H100-SXM", "H100 fp8 GEMM (trtllm)", 8, "3–4", "fp8"),
    _gemm("B200-SXM", "B200 fp8 GEMM (trtllm)", 8, "3–4", "fp8"),
    _gemm("A100-SXM4-80GB", "A100 int8 weight-only GEMM", 12, "", "int8_wo"),
    _gemm("A100-SXM4-80GB", "A100 int4 weight-only GEMM", 12, "", "int4_wo"),
    _gemm("A100-SXM4-80GB", "A100 SmoothQuant GEMM", 12, "", "sq"),
    _gemm("B200-SXM", "B200 nvfp4 GEMM (trtllm)", 12, "", "nvfp4"),
    _attention("attention_prefill", "prefill attention, per stack", 15),
    _attention("attention_decode", "decode attention, per stack", 15, "10.6"),
    AccuracyClass("vidur linear", VIDUR, ".*", "linear", target_pct=6, floor="3.7", baseline=("vidur/linear", ".*")),
    AccuracyClass(
        "vidur pointwise", VIDUR, ".*", "(?!linear).*", target_pct=7, floor="5.6 (rmsnorm)",
        baseline=("vidur/pointwise", ".*"),
    ),
    AccuracyClass("Ascend 910B GEMM bf16", ASCEND, ".*", "gemm", "bf16", ".*", 11, "7.1", ("ascend_910b", "gemm/bf16")),
    AccuracyClass(
        "Ascend 910B GEMM w8a8_dynamic", ASCEND, ".*", "gemm", "w8a8.*", ".*", 15, "", ("ascend_910b", "gemm/w8a8.*")
    ),
    AccuracyClass(
        "Ascend 910B attention", ASCEND, ".*", "attention_.*", target_pct=15, baseline=("ascend_910b", "attention.*")
    ),
    AccuracyClass("TPU v4 GEMM", TPU, ".*", "gemm", target_pct=6, floor="5.0", baseline=("tpu_v4/gemm", ".*")),
    AccuracyClass("TPU v4 vector ops", TPU, ".*", "(?!gemm).*", target_pct=5, baseline=("tpu_v4/vector", ".*")),
    AccuracyClass(
        "Tenstorrent n150 GEMM", ("tenstorrent/gemm_n150.csv",), ".*", "gemm", target_pct=12,
        baseline=("tenstorrent/gemm_n150", ".*"),
    ),
    AccuracyClass("Jetson Orin GEMM", JETSON, ".*", "gemm", target_pct=6, baseline=("jetson/gemm", ".*")),
    AccuracyClass(
        "Jetson Orin attention", JETSON, ".*", "attention_.*", target_pct=10, baseline=("jetson/attention", ".*")
    ),
    AccuracyClass(
        "Gemmini RTL cycles, test rows", ("gemmini_dosa/rtl_test.csv",), ".*", ".*", target_pct=12,
        baseline=("gemmini_dosa/rtl_test", ".*"),
    ),
    AccuracyClass(
        "collectives, NCCL", COLLECTIVES[:1], ".*", ".*", software="nccl.*", target_pct=12,
        baseline=("aiconfigurator/collectives", ".*/nccl"),
    ),
    AccuracyClass(
        "collectives, HCCL", COLLECTIVES[1:], ".*", ".*", target_pct=12, baseline=("ascend_910b/collectives", ".*")
    ),
    AccuracyClass(
        "end to end, Llama 7B/8B static batches", END_TO_END, "(Nvidia A100|Nvidia H100|AMD MI250) GPU|Habana Gaudi2",
        "request", software="(vLLM|TensorRT-LLM|Deepspeed)", target_pct=15,
    ),
    AccuracyClass("MLA prefill and decode", ("aiconfigurator/mla.csv.gz",), ".*", ".*"),
    AccuracyClass("encoder attention", ("aiconfigurator/attention_encoder.csv.gz",), ".*", ".*",
                  baseline=("aiconfigurator/attention_encoder", ".*")),
    AccuracyClass("experts (fused MoE)", ("aiconfigurator/moe_ffn.csv.gz",), ".*", ".*"),
    AccuracyClass("H20 fp8 GEMM (DeepGEMM)", ("infersim_h20_h800/kernels.csv",), ".*", "gemm",
                  baseline=("infersim/gemm", ".*")),
    AccuracyClass("MI308X GEMM (aiter)", ("amd_aiter/gemm_tuned.csv.gz",), ".*", "gemm",
                  baseline=("amd_aiter/gemm", ".*")),
    AccuracyClass("fp32 GEMM, six GPUs (PyTorch)", ("neusight/gemm_fp32.csv.gz",), ".*", ".*",
                  baseline=("neusight/gemm_fp32", ".*"), thin=20),
    AccuracyClass("fp32 vector ops, six GPUs (PyTorch)", ("neusight/vector_fp32.csv.gz",), ".*", ".*",
                  baseline=("neusight/vector_fp32", ".*"), thin=20),
)  # fmt: skip


@dataclass(frozen=True)
class Miss:
    """What is known of a class that misses its target.

    Args:
        residuals: what they look like.
        tried: what was tried.
        next_effect: the next physical effect to model.
    """

    residuals: str
    tried: str
    next_effect: str


MISSES: dict[str, Miss] = {
    "B200 bf16 GEMM": Miss(
        "rows below 20 µs carry the error, SGLang's above all; no bias by bound or size.",
        "menus of tile edges, splits of the reduction, the latency of a step along k, the epilogue of each tile.",
        "the library's own choice of tile and split, which is not always the fastest (a model of its heuristic).",
    ),
    "L40S bf16 GEMM": Miss(
        "at n = 32 the time grows linearly with k until the library's heuristic begins to split (18.8 µs at k = 4 096, "
        "4.5 µs at 5 120), which no model of the hardware predicts.",
        "weights that fill the 96 MiB cache exactly (explains factors of three), power droop, a cache share for "
        "activations.",
        "the split heuristic as the library has it, and a clock that falls at the 350 W limit.",
    ),
    "vidur linear": Miss(
        "A100 and A40 almost meet the target, H100 does not: its first cuBLAS for Hopper (2023) has few tiles, and the "
        "time is a staircase whose steps do not coincide with any menu; no bias.",
        "menus in powers of two and in multiples of 16.",
        "the tiles that library had.",
    ),
    "TPU v4 GEMM": Miss(
        "rows of 8–100 µs have 8–13 %: at m = n = 1 024 the time goes in steps of 256 of k, at n = 512 it does not.",
        "smaller slabs, on-chip blocks with a search, separate re-reads (6.7–7.5 %).",
        "the compiler's window choice for operands of 7–17 MB, where it is far from the best.",
    ),
}


@dataclass(frozen=True)
class Peer:
    """A published error.

    Args:
        who: the tool.
        what: what it was tested on.
        error: as published.
        source: where that is stated.
        ours: class of this scoreboard that holds the same rows or the nearest thing to them, "" when there is none.
    """

    who: str
    what: str
    error: str
    source: str
    ours: str = ""


PEERS: tuple[Peer, ...] = (
    Peer("PyTorchSim", "TPU v3, 16 GEMMs, kernels and networks", "11.5 % mean", "its README (MICRO 2025)"),
    Peer("SCALE-Sim v3 / Timeloop / MAESTRO / mNPUsim", "the same workloads", "55 / 60 / 47 / 124 % mean",
         "PyTorchSim, experiments/artifact/baseline_cycle.csv"),
    Peer("COCOSSim", "TPU v3, 24 operators", "13 % claimed; 15.5 % from its files", "its README and ae_plots"),
    Peer("SCALE-Sim TPU", "TPU v4 GEMM, the rows of our table",
         "18–21 % at 32–512, 109 % at 128–1024, 8.6 % at 1024–4096", "arXiv 2603.22535; computed from its data",
         "TPU v4 GEMM"),
    Peer("SCALE-Sim TPU", "TPU v4 element-wise", "< 3 % median (one linear model per function)", "arXiv 2603.22535",
         "TPU v4 vector ops"),
    Peer("Timeloop", "Gemmini RTL, the rows of our table", "22.9–31.6 % mean, Spearman 0.97–0.98",
         "computed from ucb-bar/dosa data", "Gemmini RTL cycles, test rows"),
    Peer("ONNXim", "Gemmini RTL, core timing of small arrays", "0.23 % mean", "its paper"),
    Peer("LLMCompass", "A100, MI210 and TPU v3 operators", "10.9 % mean; 4.1 % for whole inference steps",
         "ISCA 2024; constants of 12–300 µs per operator and device", "A100 bf16 GEMM"),
    Peer("NeuSight", "fp32 operators on GPUs it was not fitted to",
         "13.8 / 13.9 / 19.3 / 13.9 / 56.7 % (BMM, linear, element-wise, softmax, LayerNorm)",
         "its scripts/asplos/summary"),
    Peer("PM2Lat", "bf16 operators", "3–8 %", "arXiv 2603.00549", "H100 bf16 GEMM (trtllm, sglang)"),
    Peer("GenZ", "LLM steps on several platforms", "5.8 % largest geometric mean", "its paper",
         "end to end, Llama 7B/8B static batches"),
    Peer("BLIS", "requests on GPUs it was not fitted to", "15.7 % (A100), 13.3 % (L40S)", "its blog post on latency"),
    Peer("Vidur", "requests, profiled on the same GPU", "< 9 %", "MLSys 2024"),
    Peer("LLMServingSim 2", "requests, profiled on the same GPU", "TPOT ≤ 1.7 %, TTFT up to 13.6 %",
         "its bench/examples/*/validation"),
    Peer("InferSim", "DeepSeek-V3 on H800, prefill / decode", "+15.2 / +15.1 %", "computed from its README"),
)  # fmt: skip

"""PyTorch on CUDA (also ROCm builds), or on the CPU to test the harness."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from bench.device.cases import Case

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.float8_e4m3fn}


class TorchBackend:
    """Runs cases on one device.

    Args:
        device: ``cuda``, ``cuda:1`` or ``cpu``.
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.on_gpu = self.device.type == "cuda"
        torch.backends.cuda.matmul.allow_tf32 = False  # fp32 means fp32
        if self.on_gpu:
            torch.cuda.set_device(self.device)
            properties = torch.cuda.get_device_properties(self.device)
            self.name = properties.name
            self.cache_bytes = int(getattr(properties, "L2_cache_size", 64 << 20))
        else:
            self.name, self.cache_bytes = platform.processor() or platform.machine(), 64 << 20
        self.software = f"torch-{torch.__version__.partition('+')[0]}"

    @property
    def free_bytes(self) -> int:
        """Memory that operands may take."""
        return int(torch.cuda.mem_get_info(self.device)[0]) if self.on_gpu else 4 << 30

    def operands(self, case: Case) -> tuple[torch.Tensor, ...]:
        """Normal values of small size, in the case's format."""
        kind = DTYPES[case.dtype]
        wide = torch.bfloat16 if case.dtype == "fp8" else kind
        made = [torch.randn(shape, device=self.device, dtype=wide) * 0.1 for shape in case.operands]
        return tuple(x.to(kind) for x in made)

    def runner(self, case: Case) -> Callable[[Any], object]:
        """The call of ``torch`` that computes the case."""
        n = dict(case.dims).get("n", 0)
        if case.op == "gemm":
            if case.dtype == "fp8":
                one = torch.ones((), device=self.device)
                return lambda x: torch._scaled_mm(x[0], x[1].t(), one, one, out_dtype=torch.bfloat16)
            return lambda x: torch.mm(x[0], x[1].t())
        if case.op.startswith("attention"):
            grouped, causal = case["heads"] != case["kv_heads"], case.op == "attention_prefill"
            return lambda x: functional.scaled_dot_product_attention(*x, is_causal=causal, enable_gqa=grouped)
        if case.op == "copy":
            target = torch.empty(case.operands[0], device=self.device, dtype=DTYPES[case.dtype])
            return lambda x: target.copy_(x[0])
        weight = torch.ones(n, device=self.device, dtype=DTYPES[case.dtype])
        calls: dict[str, Callable[[Any], object]] = {
            "layernorm": lambda x: functional.layer_norm(x[0], (n,), weight, weight),
            "rmsnorm": lambda x: functional.rms_norm(x[0], (n,), weight),
            "softmax": lambda x: torch.softmax(x[0], -1),
            "silu": lambda x: functional.silu(x[0]),
            "gelu": lambda x: functional.gelu(x[0]),
        }
        return calls[case.op]

    def elapsed_s(self, queue: Callable[[], None]) -> float:
        """Between two events of the stream, or on the wall clock of the CPU."""
        if not self.on_gpu:
            begin = time.perf_counter()
            queue()
            return time.perf_counter() - begin
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self.device)
        begin.record()
        queue()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3

    def facts(self) -> dict[str, Any]:
        """What the machine is: device, software, clocks and power as the driver states them."""
        found: dict[str, Any] = {
            "device": self.name,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "system": platform.platform(),
            "last_level_cache_bytes": self.cache_bytes,
            "threads": torch.get_num_threads(),
        }
        if self.on_gpu:
            properties = torch.cuda.get_device_properties(self.device)
            found |= {
                "cuda": torch.version.cuda,
                "hip": torch.version.hip,
                "memory_bytes": properties.total_memory,
                "multiprocessors": properties.multi_processor_count,
                "driver": _nvidia_smi(),
            }
        return found


def _nvidia_smi() -> dict[str, str]:
    """Clocks, power and driver; empty where the tool is missing."""
    names = ("driver_version", "clocks.max.sm", "clocks.max.mem", "clocks.sm", "power.limit", "persistence_mode")
    command = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(names, (text.strip() for text in done.stdout.splitlines()[0].split(",")), strict=False))

"""What ``npusim doctor`` reports: versions, CPU, BLAS, extensions, extras."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
from typing import Any

from npusim import __version__
from npusim.report.text import columns

CORE = ("numpy", "pydantic", "PyYAML", "cffi", "click")
EXTRAS = {"report": ("XlsxWriter",), "onnx": ("onnx",), "dev": ("pytest", "hypothesis", "mypy", "ruff", "playwright")}


def examine(kernels: dict[str, Any]) -> dict[str, Any]:
    """Collects facts of this installation; ``kernels`` is what the kernel library says of itself."""
    return {
        "npusim": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "packages": {name: _version(name) for name in CORE},
        "extras": {extra: {name: _version(name) for name in names} for extra, names in EXTRAS.items()},
        "blas": _blas(),
        "kernels": kernels,
        "location": os.path.dirname(os.path.dirname(os.path.dirname(__file__))),
        "executable": sys.executable,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _blas() -> str:
    import numpy as np

    config: Any = np.show_config(mode="dicts")
    blas = config.get("Build Dependencies", {}).get("blas", {})
    return " ".join(str(blas[key]) for key in ("name", "version") if key in blas) or "unknown"


def render(data: dict[str, Any]) -> str:
    """The facts as text; what is absent says how to get it."""
    rows = [[key, str(data[key])] for key in ("npusim", "python", "platform", "cpus", "blas")]
    rows += [[name, version or "missing: pip install npusim"] for name, version in data["packages"].items()]
    for extra, packages in data["extras"].items():
        absent = [name for name, version in packages.items() if version is None]
        rows.append(
            [
                f"extra [{extra}]",
                "present" if not absent else f"lacks {', '.join(absent)}: pip install {' '.join(absent)}",
            ]
        )
    kernels = data["kernels"]
    rows.append(["kernel extension", kernels["extension"]])
    rows.append(["CPU features", " ".join(kernels["cpu_features"]) or "none of those that kernels use"])
    rows += [[f"kernels: {op}", ", ".join(names)] for op, names in kernels["variants"].items()]
    return "\n".join(columns(["", "found"], rows))

"""The architecture is tested, not hoped: layers, optional imports, sizes, and complete tables."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Layer of each module; a lower layer never imports a higher one (DESIGN section 3).
LAYERS = {
    "errors": 0,
    "units": 0,
    "dtypes": 0,
    "yamlio": 0,
    "chip": 1,
    "chip_parts": 1,
    "ops": 1,
    "workload": 1,
    "models": 1,
    "importers": 1,
    "catalog": 1,
    "llm": 2,
    "parallel": 2,
    "mapping": 2,
    "calibration": 2,
    "cost": 3,
    "kperf_suite": 4,
    "kperf_steps": 4,
    "explanation": 4,
    "accuracy": 4,
    "sizing": 4,
    "serving": 4,
    "report": 5,
    "regression": 5,
    "cli": 6,
    "compare_verb": 6,
    "kernel_verbs": 6,
    "grammar": 6,
    "host_verb": 6,
    "trace_verb": 6,
    "accuracy_verbs": 6,
    "calibrate_verb": 6,
    "sizing_verbs": 6,
    "serving_verbs": 6,
    "__main__": 6,
    "__init__": 6,
}
MODULES = sorted([*(ROOT / "npusim").rglob("*.py"), *(ROOT / "kernels" / "npukernels").rglob("*.py")])


def imports(path: Path) -> set[str]:
    """Dotted names of all modules a file imports, at any depth of the code; type-checking imports count too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(dotted: str) -> int | None:
    parts = dotted.split(".")
    if parts[0] != "npusim":
        return None
    return LAYERS.get(parts[1]) if len(parts) > 1 else None


def own_layer(path: Path) -> int:
    part = path.relative_to(ROOT / "npusim").parts[0].removesuffix(".py")
    return LAYERS[part]


@pytest.mark.parametrize(
    "path", [p for p in MODULES if "npukernels" not in p.parts], ids=lambda p: str(p.relative_to(ROOT))
)
def test_no_lower_layer_imports_a_higher_one(path: Path):
    own = own_layer(path)
    above = {name for name in imports(path) if (found := layer(name)) is not None and found > own}
    assert not above, f"{path.name} (layer {own}) imports {sorted(above)}"


def test_every_module_has_a_layer():
    tops = {p.relative_to(ROOT / "npusim").parts[0].removesuffix(".py") for p in MODULES if "npukernels" not in p.parts}
    assert tops == set(LAYERS)


def test_kernels_import_only_words_from_npusim():
    for path in MODULES:
        if "npukernels" in path.parts:
            used = {name for name in imports(path) if name.split(".")[0] == "npusim"}
            assert all(name.startswith(("npusim.dtypes", "npusim.errors")) for name in used), (path.name, used)


def test_only_the_command_line_and_the_host_loop_import_kernels():
    users = {
        p.name
        for p in MODULES
        if "npukernels" not in p.parts and any(n.split(".")[0] == "npukernels" for n in imports(p))
    }
    assert users <= {"cli.py", "kernel_verbs.py", "host_cases.py", "host_machine.py"}


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def loaded_after(code: str, *names: str) -> set[str]:
    return set(run(f"{code}\nimport sys\nprint(*[n for n in {names!r} if n in sys.modules])").split())


def test_help_loads_nothing_heavy():
    code = "import contextlib, npusim.cli\nwith contextlib.suppress(SystemExit):\n    npusim.cli.main(['--help'])"
    heavy = ("numpy", "pydantic", "yaml", "numba", "matplotlib", "npukernels")
    out = run(f"{code}\nimport sys\nprint([n for n in {heavy!r} if n in sys.modules])")
    assert "Usage:" in out
    assert out.strip().endswith("[]")


def test_kernels_load_nothing_heavy():
    assert not loaded_after("import npukernels", "numba", "torch", "onnx", "pydantic", "yaml", "matplotlib")


def test_kperf_does_not_load_plots():
    code = "import npusim as ns\nns.kperf('rebel-quad', precisions=['fp8'])"
    assert not loaded_after(code, "matplotlib", "xlsxwriter", "npukernels", "click")


@pytest.mark.parametrize("name", sorted({"npusim." + k for k in LAYERS if not k.startswith("__")} | {"npukernels"}))
def test_each_public_module_imports_alone(name: str):
    run(f"import {name}")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_stay_small(path: Path):
    assert len(path.read_text().splitlines()) <= 600


def test_most_functions_fit_a_screen():
    lengths = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lengths.append((node.end_lineno or 0) - node.lineno + 1)
    lengths.sort()
    assert lengths[int(0.9 * len(lengths))] <= 35
    assert lengths[-1] <= 80


def test_public_names_load():
    import npusim

    for name in npusim.__all__:
        assert callable(getattr(npusim, name))
    with pytest.raises(AttributeError):
        npusim.nonsense  # noqa: B018


def test_no_path_of_a_machine_in_the_sources():
    hits = []
    for folder in ("npusim", "kernels", "csrc", "tests", "bench", "docs", "examples"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".c", ".h", ".md", ".yaml", ".js", ".css", ".html") and path != Path(__file__):
                text = path.read_text(errors="replace")
                hits += [str(path) for word in ("/work/", "/root/", "/tmp/venv") if word in text]
    assert not hits

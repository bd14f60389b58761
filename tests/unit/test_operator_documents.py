"""Documents of attention, vector and expert operators: complete, inside their bounds, and found for their rows."""

from __future__ import annotations

import numpy as np
import pytest

from npusim.accuracy import calibrating, transfer
from npusim.accuracy.calibrating import Group, fit_group, found_groups, key_of
from npusim.accuracy.class_fits import Member, fit_class
from npusim.accuracy.operator_fits import by_kernel, choose_menus, dims_of, known_parameters, variant
from npusim.accuracy.rows import load_rows
from npusim.calibration import CATALOG, load_calibration, resolve
from npusim.chip import load_chip
from npusim.cost.calibrated.family import family

OURS = ("attention-", "mla-", "moe/", "vector/")
DOCUMENTS = sorted(CATALOG.glob("*.yaml"))
HEAD = "device,software,op,dtype,m,n,k,batch,heads,kv_heads,head_dim,seq_q,seq_kv,latency_us,extra"


def test_documents_of_our_families_are_complete_and_within_bounds():
    loaded = [load_calibration(path) for path in DOCUMENTS]
    ours = [document for document in loaded if document.family.startswith(OURS)]
    assert len(ours) > 100
    for document in ours:
        specs = {spec.name: spec for spec in family(document.family).parameters}
        assert set(document.parameters) == set(specs), document.name
        for name, parameter in document.parameters.items():
            assert specs[name].low <= parameter.value <= specs[name].high, (document.name, name)
            assert parameter.low >= specs[name].low and parameter.high <= specs[name].high
        assert document.source.dataset and document.source.how


@pytest.mark.parametrize("chip", ["a100", "h100", "b200", "l40s"])
@pytest.mark.parametrize("stack", ["trtllm", "sglang", "vllm"])
@pytest.mark.parametrize("op", ["attention_decode", "attention_prefill"])
def test_measured_stacks_are_calibrated(chip, stack, op):
    match = resolve(load_chip(chip), f"{stack}-9.9", op, "bfloat16/kv_bfloat16")
    assert match is not None and match.state == "calibrated" and match.calibration.software.startswith(stack)


def synthetic(tmp_path, name: str, chips: dict[str, str], scale: float = 1.0):
    """Rows that the family itself made on several devices, under constants away from its starting point."""
    model = family(name)
    values = {s.name: s.start for s in model.parameters} | {"dram": 0.7, "launch_us": 5.0 * scale}
    values["traffic"] = 3.0
    m, n = (np.array(v, float).ravel() for v in np.meshgrid([1, 16, 128, 1024, 8192, 32768], [1024, 4096, 8192]))
    lines = [HEAD]
    for device, chip in chips.items():
        times = model.seconds(load_chip(chip), "float16", {"m": m, "n": n}, values).time_s * 1e6
        for kernel, factor in (("usual", 1.0), ("other", 2.0)):
            count = len(m) if kernel == "usual" else 3
            for i in range(count):
                latency = times[i] * factor
                lines.append(f"{device},stack-1.0,add,float16,{m[i]:g},{n[i]:g},,,,,,,,{latency},kernel={kernel}")
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(lines) + "\n")
    return load_rows([path])


def test_groups_take_the_usual_kernel(tmp_path):
    rows = synthetic(tmp_path, "vector/1", {"H100-SXM": "h100", "no such device": "h100"})
    found = found_groups(rows)
    assert [(g.chip.name, g.software, g.op) for g in found] == [("h100", "stack-1.0", "add")]
    only = list(by_kernel(rows.select(np.flatnonzero(rows.column("device") == "H100-SXM")), "stack-1.0"))
    assert [name for name, _ in only] == ["stack-1.0"]
    assert variant("a-1", "k") == "a-1 kernel=k"


def test_a_document_predicts_the_rows_it_was_fitted_to(tmp_path):
    rows = synthetic(tmp_path, "vector/1", {"H100-SXM": "h100"})
    rows = rows.select(np.flatnonzero(rows.extra("kernel") == "usual"))
    rows = rows.select(np.tile(np.arange(len(rows)), 3))
    group = Group(load_chip("h100"), "stack-1.0", "add", "float16", rows, family("vector/1"))
    found = fit_group(group)
    made = calibrating.document(group, found)
    assert made.values()["traffic"] == 3.0 and made.rows == len(rows)
    assert found.mape_pct < 5
    times = family("vector/1").seconds(group.chip, "float16", dims_of(rows), made.values()).time_s
    assert np.median(np.abs(times * 1e6 / rows.column("latency_us") - 1)) < 0.03


def test_menus_are_tried_and_known_ones_kept():
    model, chip = family("vector/1"), load_chip("h100")
    dims = {"m": np.geomspace(1, 4096, 40).round(), "n": np.full(40, 4096.0)}
    truth = {s.name: s.start for s in model.parameters} | {"rows_are_blocks": 0.0, "traffic": 2.0, "element_ns": 2.0}
    measured = model.seconds(chip, "fp16", dims, truth).time_s
    known = known_parameters(model, "gelu")
    assert known == {"traffic": 2.0} and known_parameters(family("moe/1"), "moe_ffn") == {}
    choice, values = choose_menus(model, chip, "fp16", dims, measured, known)
    assert choice["rows_are_blocks"] == 0.0 and choice["traffic"] == 2.0
    fitted = model.seconds(chip, "fp16", dims, values).time_s
    assert np.mean(np.abs(fitted / measured - 1)) < 0.05


def test_class_documents_leave_each_chip_out(tmp_path):
    rows = synthetic(tmp_path, "vector/1", {"H100-SXM": "h100", "A100-SXM4-80GB": "a100"})
    rows = rows.select(np.flatnonzero(rows.extra("kernel") == "usual"))
    members = []
    for device, chip in (("H100-SXM", "h100"), ("A100-SXM4-80GB", "a100")):
        part = rows.select(np.tile(np.flatnonzero(rows.column("device") == device), 3))
        group = Group(load_chip(chip), "stack-1.0", "add", "float16", part, family("vector/1"))
        members.append(Member(group, calibrating.document(group, fit_group(group))))
    pooled, errors = fit_class("gpu", members, family("vector/1"))
    assert pooled.scope == "class" and pooled.chips == ("h100", "a100") and pooled.software == "stack"
    assert set(errors) == {"h100", "a100"} and max(errors.values()) < 10
    assert pooled.cross_validation.by == "device" and pooled.cross_validation.folds == 2
    single, none = fit_class("gpu-x", members[:1], family("vector/1"))
    assert none == {} and single.residuals["all"].q90 >= members[0].document.residuals["all"].q90
    known = {key_of(member.group): member.document for member in members}
    found = transfer.class_document("gpu", [member.group for member in members], known)
    assert found.values() == pooled.values()

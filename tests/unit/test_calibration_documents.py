"""Do calibration documents survive a round trip, name every mistake with its line, and are they found in order?"""

import math

import pytest

from npusim import calibration as cal
from npusim.chip import find_chip
from npusim.errors import InputError


def document(**changes):
    quantiles = {"rows": 50, "q05": -0.2, "q10": -0.1, "q50": 0.0, "q90": 0.1, "q95": 0.2}
    fields = {
        "format": cal.FORMAT,
        "chip": "h100",
        "software": "trtllm-1.3.0rc20",
        "op": "gemm",
        "dtype": "bf16",
        "family": "gpu-gemm/1",
        "parameters": {"launch": {"value": 2.5e-6, "low": 2e-6, "high": 3e-6, "unit": "s"}},
        "rows": 50,
        "source": {"dataset": "made up: for a test", "how": 'by "hand", twice'},
        "cross_validation": {"folds": 5, "mape_pct": 6.0, "mdape_pct": 4.0, "bias_pct": 0.1},
        "residuals": {"all": quantiles, "dram": {**quantiles, "q90": 0.15}},
        "notes": ["a, b: [c] {d} # e"],
    }
    return cal.Calibration.model_validate(fields | changes)


def test_round_trip(tmp_path):
    first = document()
    path = cal.save(first, tmp_path / "new")
    assert path.name == "h100--trtllm-1.3.0rc20--gemm--bf16.yaml"
    assert cal.load_calibration(path) == first


def test_intervals_come_from_the_group_or_the_pool():
    low, high = document().interval_factors("dram")
    assert (low, high) == pytest.approx((math.exp(-0.1), math.exp(0.15)))
    assert document().interval_factors("link")[1] == pytest.approx(math.exp(0.1))


@pytest.mark.parametrize(
    ("old", "new", "message", "line"),
    [
        ("value: 2.5e-06", "value: 5.0", "does not hold 5", 8),
        ("rows: 50\nsource", "rows: none\nsource", "valid integer", 9),
        ("family:", "famly:", "unknown key 'famly'", 6),
        ("  all:", "  dram2:", "need a pooled entry called 'all'", 12),
        ("q05: -0.2", "q05: 0.3", "quantiles must not decrease", 13),
        ("mape_pct: 6", "mape_pct: .inf", "not finite", 11),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path, old, new, message, line):
    path = cal.save(document(), tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError) as error:
        cal.load_calibration(path)
    assert any(message in str(p) and p.line == line for p in error.value.problems), str(error.value)


def test_every_document_of_the_catalog_is_valid_and_carries_its_name():
    for name, path in cal.catalog().items():
        assert cal.load_calibration(path).name == name


def test_spellings():
    assert cal.dtype_key("bfloat16/kv_float16") == "bf16/kv_fp16"
    assert cal.stack("trtllm-1.3.0rc20") == cal.stack("TRTLLM-1.0.0") == "trtllm"
    assert cal.chip_classes(find_chip("h100"))[0] == "gpu-tensorcore-64x8x16-hbm"
    assert cal.chip_classes(find_chip("a40"))[:2] == ("gpu-tensorcore-16x8x16-gddr", "gpu-tensorcore-16x8x16")


def test_resolution_goes_from_near_to_far():
    """Each document added is nearer than all before it, except another dtype of the chip, the last resort."""
    chip, op = find_chip("h100"), "an-op-nobody-measured"
    other_dtype = document(op=op, dtype="fp3")
    general = document(op=op, scope="class", chip="gpu", software="any", chips=("a100",))
    narrow = document(op=op, scope="class", chip="gpu-tensorcore-64x8x16-hbm", software="any", chips=("h200",))
    other_stack = document(op=op, software="vllm-1.0")
    version = document(op=op, software="trtllm-1.0.0")
    tried = [other_dtype, general, narrow, other_stack, version, document(op=op)]
    states = []
    for end, expected in enumerate(tried, 1):
        found = cal.resolve(chip, "trtllm-1.3.0rc20", op, "bfloat16", extra=tried[:end])
        assert found is not None and found.calibration is expected
        states.append(found.state)
    assert states == ["transferred"] * 3 + ["calibrated"] * 3
    assert cal.resolve(chip, "trtllm-1.3.0rc20", op, "bf16") is None

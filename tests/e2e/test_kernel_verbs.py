"""Do kernel list, golden and check, and compare, work as a hardware team or a CI job would use them?"""

import json
import subprocess
import sys

import numpy as np
import pytest

import npukernels as nk
from npukernels import case_files
from tests.unit.test_regression import record_file


def npusim(*arguments, cwd=None):
    command = [sys.executable, "-m", "npusim", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


@pytest.fixture
def case_file(tmp_path):
    file = tmp_path / "case.npz"
    done = npusim("kernel", "golden", "gemm", "m=8,n=6,k=32", "--fill", "adversarial", "--seed", 7, "--out", file)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "input0: float32 [8, 32]" in done.stdout and "output: float32 [8, 6]" in done.stdout
    return file


def product(case_file):
    with np.load(case_file, allow_pickle=False) as case:
        return case["input0"] @ case["input1"]


def test_list_names_ops_formats_and_fills():
    done = npusim("kernel", "list", "--json")

    listed = json.loads(done.stdout)
    assert listed["ops"]["gemm"]["sizes"] == {"m": None, "n": None, "k": None}
    assert listed["ops"]["gemm"]["variants"][0] == "ref" and "fp32" in listed["ops"]["gemm"]["dtypes"]
    assert "realistic" in listed["fills"]
    assert "gemm" in npusim("kernel", "list").stdout


def test_a_case_file_holds_the_case_of_its_seed(case_file):
    case = case_files.load_case(case_file)

    again = nk.golden("gemm", m=8, n=6, k=32, fill="adversarial", seed=7)
    assert case.repro == again.repro and case_files.same_case(case)
    assert all(np.array_equal(x, y) for x, y in zip(case.inputs, again.inputs, strict=True))


def _write(case_file, suffix, output):
    """The output in one of the forms a team may have; returns the file to give to check."""
    file = case_file.with_name(f"out{suffix}")
    if suffix == ".npy":
        np.save(file, output)
    elif suffix == ".npz":
        np.savez_compressed(file, output=output, other=np.zeros(3))
    elif suffix == ".f.npy":
        np.save(file, np.asfortranarray(output))
    else:
        order, endian = ("F", ">") if suffix == ".be" else ("C", "<")
        file.write_bytes(output.astype(f"{endian}f4").tobytes(order=order))
        about = {"dtype": "float32", "shape": list(output.shape), "order": order}
        about |= {"byteorder": "big"} if endian == ">" else {}
        file.with_name(file.name + ".json").write_text(json.dumps(about))
    return file


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".f.npy", ".bin", ".be"])
def test_a_right_output_passes_in_every_file_format(case_file, suffix):
    done = npusim("kernel", "check", case_file, _write(case_file, suffix, product(case_file)))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("PASS: error / bound 0.")


def test_a_wrong_output_is_named_with_exit_code_1(case_file):
    wrong = _write(case_file, ".bin", product(case_file).T.reshape(8, 6))

    done = npusim("kernel", "check", case_file, wrong, "--json")

    assert (done.returncode, done.stderr) == (1, "")
    found = json.loads(done.stdout)
    keys = ["verdict", "ratio", "max_ulp", "nmse", "bad", "first", "worst", "cause", "repro", "kind", "case", "notes"]
    assert list(found) == keys and list(found["worst"]) == ["index", "expected", "got", "ratio"]
    assert (found["verdict"], found["kind"], found["case"]["seed"]) == ("FAIL", "transposed", 7)
    assert "transposed" in npusim("kernel", "check", case_file, wrong).stdout


def test_every_code_format_makes_the_round_trip(tmp_path):
    x = np.arange(12.0).reshape(3, 4)
    case = nk.Case("cast", "fp32", "uniform", 0, (), (x,), x, np.zeros((3, 4)), "fp8", (("scale", 0.5),))
    case_files.save_case(case, tmp_path / "c.npz")

    again = case_files.load_case(tmp_path / "c.npz")

    assert again.out_dtype == "fp8" and again.params == (("scale", 0.5),)
    assert not case_files.same_case(again)
    shown = npusim("kernel", "check", tmp_path / "c.npz", _write(tmp_path / "c.npz", ".npy", x))
    assert shown.returncode == 1 and "wrong dtype" in shown.stdout and "note: the file differs" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("golden", "gemmm", "m=1", "--out", "x.npz"), "did you mean 'gemm'"),
        (("golden", "gemm", "m=1,n=1", "--out", "x.npz"), "gemm needs k"),
        (("golden", "gemm", "m=1,n=1,k=x", "--out", "x.npz"), "is not SIZE=N"),
        (("golden", "gemm", "m=1,m=2", "--out", "x.npz"), "given twice"),
        (("golden", "gemm", "m=1,n=1,k=1", "--out", "x.npy"), "no .npz file"),
        (("golden", "gemm", "m=1,n=1,k=1", "--out", "absent/x.npz"), "No such file"),
        (("golden", "gemm", "m=1,n=1,k=1"), "--out"),
        (("check", "absent.npz", "absent.npy"), "absent.npz: No such file"),
    ],
)
def test_bad_requests_are_one_message_and_exit_code_2(arguments, message, tmp_path):
    done = npusim("kernel", *arguments, cwd=tmp_path)

    assert done.returncode == 2 and done.stdout == ""
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_compare_exits_1_on_a_regression_only(tmp_path):
    base = record_file(tmp_path, "base.json", {"a": (1.0, 1.01), "b": (1.0, 1.01), "gone": (1.0, 1.0)})
    slow = record_file(tmp_path, "slow.json", {"a": (1.0, 1.01), "b": (1.3, 1.31), "new": (1.0, 1.0)})

    done = npusim("compare", base, slow, "--json")

    assert (done.returncode, done.stderr) == (1, "")
    found = json.loads(done.stdout)
    assert list(found) == ["tests", "only_baseline", "only_current", "regressions", "notes"]
    assert list(found["tests"][0]) == ["test", "baseline_s", "current_s", "ratio", "low", "high", "verdict"]
    assert (found["regressions"], found["only_baseline"], found["only_current"]) == (["b"], ["gone"], ["new"])
    assert "| **slower** |" in npusim("compare", base, slow, "--markdown").stdout
    assert npusim("compare", base, slow, "--threshold", 40).returncode == 0
    assert npusim("compare", slow, base).returncode == 0
    assert npusim("compare", base, base).returncode == 0


def test_compare_refuses_another_machine(tmp_path):
    base = record_file(tmp_path, "base.json", {"a": (1.0, 1.0)})
    other = record_file(tmp_path, "other.json", {"a": (1.0, 1.0)}, {"node": "elsewhere"})

    done = npusim("compare", base, other)

    assert done.returncode == 2 and "different machines (node: a and elsewhere" in done.stderr
    forced = npusim("compare", base, other, "--force")
    assert forced.returncode == 0 and "note: different machines" in forced.stdout

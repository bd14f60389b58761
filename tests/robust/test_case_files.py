"""Is every damaged, hostile or oversized file one clear InputError, and nothing it declares believed?"""

import io
import json
import pickle
import random
import zipfile

import numpy as np
import pytest

import npukernels as nk
from npukernels import case_files
from npusim import regression
from npusim.errors import InputError
from tests.conftest import SOAK
from tests.unit.test_regression import record_file

MUTATIONS = 20_000 if SOAK else 300


def npy(text_shape="(2, 3)", descr="'<f4'", data=b"\0" * 24, order="False", version=1):
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {text_shape}, }}".encode()
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + data


class Bomb:
    """Would create a file when unpickled."""

    def __reduce__(self):
        return open, ("unpickled", "w")


def pickled():
    stream = io.BytesIO()
    np.save(stream, np.array([Bomb()], dtype=object), allow_pickle=True)
    return stream.getvalue()


BAD_NPY = {
    "empty": (b"", "no .npy array"),
    "text": (b"hello, world", "no .npy array"),
    "pickle": (pickle.dumps([1, 2]), "no .npy array"),
    "objects": (pickled(), "Python objects"),
    "objects in name only": (npy(descr="'|O'"), "Python objects"),
    "records": (npy(descr="[('a', '<f4')]"), "records"),
    "text elements": (npy(descr="'<U4'"), "dtype is '<U4'"),
    "complex": (npy(descr="'<c8'"), "dtype is '<c8'"),
    "truncated": (npy(data=b"\0" * 23), "truncated: 23 of 24 bytes"),
    "truncated header": (npy()[:30], "damaged header"),
    "huge": (npy("(2**40, 2**20)"), "damaged header"),
    "huge literal": (npy("(1099511627776, 1048576)"), "declares"),
    "beyond 64 bits": (npy("(99999999999999999999,)"), "shape is"),
    "negative": (npy("(-1, 3)"), "shape is"),
    "float size": (npy("(2.0, 3)"), "shape is"),
    "nested shape": (npy("((2,), 3)"), "shape is"),
    "many dimensions": (npy(str((1,) * 40)), "shape is"),
    "code in the header": (npy("(__import__('os').getpid(),)"), "damaged header"),
    "deep header": (npy("(" * 3000 + ")" * 3000), "damaged header"),
    "no shape": (b"\x93NUMPY\1\0\2\0{}", "damaged header"),
    "long header": (b"\x93NUMPY\2\0" + (2**31).to_bytes(4, "little"), "header of"),
    "unknown version": (npy(version=9), "no .npy array"),
}


@pytest.mark.parametrize("name", BAD_NPY)
def test_a_bad_npy_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, message = BAD_NPY[name]
    (tmp_path / "x.npy").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("output.npy", data)

    for file in ("x.npy", "x.npz"):
        with pytest.raises(InputError, match=f"{file}: .*{message}"):
            case_files.load_output(file)
    assert not (tmp_path / "unpickled").exists()


def test_good_files_of_every_kind_are_read(tmp_path):
    """So that the cases above fail for the reason they name."""
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    (tmp_path / "a.npy").write_bytes(npy(data=x.tobytes()))
    (tmp_path / "f.npy").write_bytes(npy(order="True", data=x.tobytes(order="F"), version=2))
    (tmp_path / "b.npy").write_bytes(npy(descr="'>f4'", data=x.astype(">f4").tobytes()))
    for file in ("a.npy", "f.npy", "b.npy"):
        read = case_files.load_output(tmp_path / file)
        assert np.array_equal(read, x) and read.dtype == np.float32 and read.dtype.isnative


def bomb(folder, name, size):
    file = folder / name
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("output.npy", "w") as member:
        header = npy(f"({size},)", "'|i1'", b"")
        member.write(header)
        for _ in range(size >> 20):
            member.write(b"\0" * 2**20)
    return file


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    with pytest.raises(InputError, match=r"declares .*1000 times"):
        case_files.load_output(bomb(tmp_path, "x.npz", 64 * 2**20))


def test_a_zip_that_lies_about_its_sizes_is_refused(tmp_path):
    file = bomb(tmp_path, "x.npz", 2**20)
    data = bytearray(file.read_bytes())
    at = data.rindex(b"PK\1\2")
    data[at + 24 : at + 28] = (2**31 - 1).to_bytes(4, "little")
    file.write_bytes(data)

    with pytest.raises(InputError):
        case_files.load_output(file)


def test_an_npz_without_a_clear_output_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros(2), b=np.zeros(2))
    with pytest.raises(InputError, match=r"holds 2 arrays.*'output'"):
        case_files.load_output(tmp_path / "x.npz")


GOOD_SIDECAR = {"dtype": "float32", "shape": [2, 3], "order": "C"}
BAD_SIDECARS = [
    (None, "out.bin.json: is not there"),
    ("[]", "no JSON object"),
    ("{", "no JSON"),
    ("[" * 100_000, "no JSON"),
    ({"dtype": "float31"}, "dtype is 'float31'"),
    ({"dtype": "object"}, "dtype is 'object'"),
    ({"dtype": 4}, "dtype is 4"),
    ({"dtype": None}, "dtype is None"),
    ({"shape": [2, 2]}, "has 24 bytes; 16 for float32 of shape"),
    ({"shape": [2, 4]}, "truncated: 24 of 32 bytes"),
    ({"shape": [2**40, 2**40]}, "declares"),
    ({"shape": [-2, -3]}, "shape is"),
    ({"shape": "2x3"}, "shape is"),
    ({"shape": [True, 3]}, "shape is"),
    ({"order": "X"}, "order is C or F"),
    ({"byteorder": "middle"}, "byteorder"),
    ({"stride": 4}, "unknown fields stride"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_SIDECARS)
def test_a_bad_sidecar_is_refused(changes, message, tmp_path):
    (tmp_path / "out.bin").write_bytes(b"\0" * 24)
    if changes is not None:
        text = changes if isinstance(changes, str) else json.dumps(GOOD_SIDECAR | changes)
        (tmp_path / "out.bin.json").write_text(text)

    with pytest.raises(InputError) as caught:
        case_files.load_output(tmp_path / "out.bin")
    assert message in str(caught.value)


def _case_file(folder, **changes):
    """A case file with parts changed; None leaves a part out."""
    case = nk.golden("gemm", m=2, n=3, k=4)
    case_files.save_case(case, folder / "good.npz")
    with np.load(folder / "good.npz") as parts:
        arrays = dict(parts)
    about = json.loads(arrays["case"].tobytes())
    for name, value in changes.items():
        if name in about:
            about[name] = value
            arrays["case"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        elif value is None:
            del arrays[name]
        else:
            arrays[name] = value
    np.savez(folder / "case.npz", **arrays)
    return folder / "case.npz"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"case": None}, "no golden case"),
        ({"case": np.zeros(3, np.uint8)}, "no JSON"),
        ({"case": np.zeros(3)}, "no golden case"),
        ({"format": "other/1"}, "another format"),
        ({"expected": None}, "lacks expected"),
        ({"input0": None}, "lacks input0"),
        ({"expected": np.zeros((2, 3), np.float32)}, "not float64"),
        ({"bound": np.zeros(2)}, "of one shape"),
        ({"bound": np.full((2, 3), np.nan)}, "negative or NaN"),
        ({"out_dtype": "object"}, "no usable out_dtype"),
        ({"seed": "x"}, "no usable seed"),
        ({"dims": {"m": "x"}}, "no usable dims"),
        ({"dims": [1]}, "no usable dims"),
    ],
)
def test_a_damaged_case_is_refused(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        case_files.load_case(_case_file(tmp_path, **changes))


@pytest.mark.parametrize(
    "changes", [{"op": "none"}, {"seed": -1}, {"dims": {"m": 2**39}}, {"dims": {"dtype": 1}}, {"seed": 5}]
)
def test_an_edited_case_is_judged_and_called_edited(changes, tmp_path):
    case = case_files.load_case(_case_file(tmp_path, **changes))

    assert nk.check(case.expected.astype(np.float32), case).verdict == "PASS"
    assert not case_files.same_case(case) or case.dims == (("m", 2**39),)


def test_mutated_files_raise_nothing_else(tmp_path):
    """Random damage to a case, an output and a benchmark record."""
    sources = [(_case_file(tmp_path), case_files.load_case, "m.npz")]
    np.save(tmp_path / "o.npy", np.arange(6.0))
    sources.append((tmp_path / "o.npy", case_files.load_output, "m.npy"))
    sources.append((record_file(tmp_path, "r.json", {"a": (1.0, 2.0)}), regression.read_record, "m.json"))
    rng = random.Random(5)
    refused = 0
    for source, load, name in sources:
        good = source.read_bytes()
        for _ in range(MUTATIONS):
            data = bytearray(good)
            for _ in range(rng.randint(1, 8)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            cut = rng.randrange(len(data)) if rng.random() < 0.2 else len(data)
            (tmp_path / name).write_bytes(data[:cut])
            try:
                load(tmp_path / name)
            except InputError:
                refused += 1
    assert refused > MUTATIONS


BAD_RECORDS = [
    ("", "is not JSON"),
    ("{}", "no list of benchmarks"),
    ("[1]", "no list of benchmarks"),
    ("[" * 100_000, "nested too deeply"),
    ('{"benchmarks": [NaN]}', "NaN is no number"),
    ('{"benchmarks": [{}]}', r"benchmarks\[0\]: has no usable times"),
    ('{"benchmarks": [{"fullname": "a", "stats": {"min": 0, "q1": 1}}]}', "min is 0"),
    ('{"benchmarks": [{"fullname": "a", "stats": {"min": "1", "q1": 1}}]}', "min is '1'"),
    ('{"benchmarks": [{"fullname": "a", "stats": {"min": 2, "q1": 1}}]}', "q1 is below min"),
    ('{"benchmarks": [{"fullname": "", "stats": {"min": 1, "q1": 1}}]}', "no name"),
    ('{"benchmarks": [{"fullname": "a", "stats": []}]}', "no usable times"),
]


@pytest.mark.parametrize(("text", "message"), BAD_RECORDS)
def test_a_bad_benchmark_record_is_refused(text, message, tmp_path):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(InputError, match=message):
        regression.read_record(tmp_path / "r.json")


def test_a_test_recorded_twice_is_refused(tmp_path):
    file = record_file(tmp_path, "r.json", {"a": (1.0, 1.0)})
    data = json.loads(file.read_text())
    data["benchmarks"] *= 2
    file.write_text(json.dumps(data))
    with pytest.raises(InputError, match="there twice"):
        regression.read_record(file)

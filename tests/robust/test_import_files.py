"""Does every bad ONNX or SCALE-Sim file end in one clear InputError, and is nothing else ever opened?"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npusim.errors import InputError
from npusim.importers.onnx_graph import FREE, LOWER, import_onnx
from npusim.importers.scalesim import import_scalesim_config, import_scalesim_topology
from npusim.workload import Workload
from tests.conftest import SOAK

onnx = pytest.importorskip("onnx")
helper = pytest.importorskip("onnx.helper")
MUTATIONS = 20_000 if SOAK else 1_500


def model(x: tuple[Any, ...] = (4, 8), w: tuple[int, ...] = (8, 3), nodes: list[Any] | None = None) -> Any:
    weight = onnx.TensorProto()
    weight.name, weight.data_type = "w", 1
    weight.dims.extend(w)
    graph = helper.make_graph(
        nodes or [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "net",
        [helper.make_tensor_value_info("x", 1, x)],
        [helper.make_tensor_value_info("y", 1, None)],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def refuse(path: Path, **how: Any) -> str:
    start = time.process_time()
    with pytest.raises(InputError) as caught:
        import_onnx(path, **how)
    assert time.process_time() - start < 5
    text = str(caught.value)
    assert text.strip() and len(text) < 5_000
    return text


def put(tmp_path: Path, data: bytes) -> Path:
    file = tmp_path / "net.onnx"
    file.write_bytes(data)
    return file


GOOD = model().SerializeToString()
FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no IR version"),
    "text": (b"hello, this is not a model\n" * 9, "not an ONNX model"),
    "json": (b'{"graph": []}', "not an ONNX model"),
    "zip": (b"PK\x03\x04" + bytes(200), "not an ONNX model"),
    "nul bytes": (bytes(1000), "not an ONNX model"),
    "high bytes": (b"\xff" * 1000, "more than 10 bytes"),
    "truncated": (GOOD[:-5], "cut short"),
    "half": (GOOD[: len(GOOD) // 2], "cut short"),
    "twice": (GOOD + GOOD, "written twice"),
    "a tensor": (helper.make_tensor("t", 1, [2], [1.0, 2.0]).SerializeToString(), "not an ONNX model"),
    "a length of 2^62": (b"\x3a" + b"\xff" * 8 + b"\x3f" + bytes(20), "cut short"),
    "deep": ((b"\x3a\x7e\x0a\x7c\x2a\x7a\x32\x78" * 30), "not an ONNX model"),
    "group fields": (b"\x0b\x0c", "no protobuf field"),
    "field number 0": (b"\x00\x01", "no protobuf field"),
    "a million fields": (b"\x08\x01" * 1_000_001, "too many fields"),
}


@pytest.mark.parametrize("name", FILES)
def test_bytes_that_are_no_model(name: str, tmp_path: Path):
    data, said = FILES[name]
    assert said in refuse(put(tmp_path, data))


def nested(depth: int) -> Any:
    """A model whose branches hold branches."""
    inner = [helper.make_node("Relu", ["x"], ["y0"])]
    for level in range(1, depth):
        branch = helper.make_graph(inner, "b", [], [helper.make_tensor_value_info(f"y{level - 1}", 1, [4, 8])])
        inner = [helper.make_node("If", ["x"], [f"y{level}"], then_branch=branch, else_branch=branch)]
        if level > 6:  # both branches would double it each time
            del inner[0].attribute[1]
    inner[0].output[0] = "y"
    return model(nodes=inner)


def test_nesting_is_bounded(tmp_path: Path):
    assert "nested deeper" in refuse(put(tmp_path, nested(24).SerializeToString()))


def changed(change: Callable[[Any], Any]) -> bytes:
    made = model()
    change(made)
    return bytes(made.SerializeToString())


def rename(made: Any, name: bytes) -> bytes:
    return made.SerializeToString().replace(b"product", name)


GRAPHS: dict[str, tuple[bytes, str]] = {
    "no graph": (changed(lambda m: m.ClearField("graph")), "no IR version, no opset or no nodes"),
    "no opset": (changed(lambda m: m.ClearField("opset_import")), "no opset"),
    "a future opset": (changed(lambda m: setattr(m.opset_import[0], "version", 10**6)), "opset is not known"),
    "2^80 elements": (model((2**40, 1), (1, 2**40)).SerializeToString(), "1099511627776"),
    "2^63 - 1": (model((2**63 - 1, 8)).SerializeToString(), "1 to 2^40"),
    "negative": (model((-4, 8)).SerializeToString(), "is -4"),
    "zero": (model((0, 8)).SerializeToString(), "is 0"),
    "negative weight": (model(w=(8, -3)).SerializeToString(), "net.onnx"),
    "a size that crashes onnx 1.23": (
        model(w=(2, -1), nodes=[helper.make_node("GatherND", ["x", "w"], ["y"])]).SerializeToString(), "negative",
    ),
    "huge weight": (model(w=(8, 2**40)).SerializeToString(), "0 to 2^40 elements"),
    "sizes that do not fit": (model(w=(9, 3)).SerializeToString(), "shapes do not fit"),
    "unbound": (model(("n", 8)).SerializeToString(), "without a value: n"),
    "no shape": (changed(lambda m: m.graph.input[0].type.tensor_type.ClearField("shape")), "no shape"),
    "read before written": (changed(lambda m: m.graph.node[0].input.__setitem__(0, "z")), "'z' is read before"),
    "written twice": (
        model(nodes=[helper.make_node("Relu", ["x"], ["y"])] * 2).SerializeToString(), "'y' is written twice",
    ),
    "an input that is written": (changed(lambda m: m.graph.node[0].output.__setitem__(0, "x")), "'x' is written twice"),
    "a name that is no text": (rename(model(), b"pr\xff\xfeuct"), "not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_that_make_no_sense(name: str, tmp_path: Path):
    data, said = GRAPHS[name]
    text = refuse(put(tmp_path, data))
    assert said in text
    assert str(tmp_path / "net.onnx") in text or "dims" in text


def external(location: str, **more: str) -> bytes:
    def change(made: Any) -> None:
        weight = made.graph.initializer[0]
        weight.data_location = 1
        for key, value in ({"location": location} | more).items():
            entry = weight.external_data.add()
            entry.key, entry.value = key, value

    return changed(change)


@pytest.mark.parametrize(
    "location", ["../w.bin", "a/../../w.bin", "/etc/passwd", "..\\w.bin", "\\\\host\\w.bin", "", "w\0.bin", ".."]
)
def test_external_data_outside_the_folder(location: str, tmp_path: Path):
    assert "outside the model's folder" in refuse(put(tmp_path, external(location)))


def test_symbolic_links_that_leave_the_folder(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "w.bin").write_bytes(b"w")
    home = tmp_path / "home"
    home.mkdir()
    (home / "w.bin").symlink_to(tmp_path / "elsewhere" / "w.bin")
    (home / "folder").symlink_to(tmp_path / "elsewhere")
    for location in ("w.bin", "folder/w.bin"):
        assert "outside the model's folder" in refuse(put(home, external(location)))


def test_a_model_and_its_data_linked_into_one_folder(tmp_path: Path):
    """As the cache of a model hub lays them out."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir(), snapshot.mkdir()
    put(blobs, external("w.bin")).rename(blobs / "1234")
    (snapshot / "net.onnx").symlink_to("../blobs/1234")
    (snapshot / "w.bin").symlink_to("../blobs/5678")
    assert import_onnx(snapshot / "net.onnx").flops == 2 * 4 * 8 * 3


def test_missing_external_data_is_no_error(tmp_path: Path):
    net = import_onnx(put(tmp_path, external("w.bin", offset="0", length="99999999999")))
    assert net.bytes("weight") == 4 * 24


def test_payloads_are_skipped_not_read(tmp_path: Path):
    """A sparse file of 1.5 GB costs no memory and no time: its weight is stepped over."""
    made = model(w=(8, 48_000_000))
    body = made.graph.initializer[0].SerializeToString()
    made.graph.ClearField("initializer")
    rest = made.graph.SerializeToString()
    made.ClearField("graph")

    def length(value: int) -> bytes:
        return bytes([*(value >> 7 * i & 0x7F | 0x80 for i in range(4)), value >> 28])

    raw = 4 * 8 * 48_000_000
    tensor = body + b"\x4a" + length(raw)
    head = rest + b"\x2a" + length(len(tensor) + raw) + tensor
    file = put(tmp_path, made.SerializeToString() + b"\x3a" + length(len(head) + raw) + head)
    os.truncate(file, file.stat().st_size + raw)

    start = time.process_time()
    net = import_onnx(file)

    assert net.bytes("weight") == raw
    assert time.process_time() - start < 1


def test_headers_are_bounded(tmp_path: Path):
    """A description of 200 MB is refused before it is read."""
    file = put(tmp_path, b"\x32\x80\x84\xaf\x5f")
    os.truncate(file, 5 + 200_000_000)
    assert "too big without its weights" in refuse(file)


@pytest.mark.parametrize("make", ["missing", "folder", "pipe", "device", "huge", "nul"])
def test_what_is_no_file(make: str, tmp_path: Path):
    path = tmp_path / "net.onnx"
    if make == "folder":
        path.mkdir()
    elif make == "pipe":
        os.mkfifo(path)
    elif make == "device":
        path = Path("/dev/zero")
    elif make == "huge":
        put(tmp_path, b"")
        os.truncate(path, 2**31 + 1)
    elif make == "nul":
        path = Path("a\0b")
    said = {"missing": "No such file", "huge": "too big", "nul": "cannot read"}.get(make, "not a regular file")
    assert said in refuse(path)


def test_long_and_unprintable_names_are_cut(tmp_path: Path):
    made = model(nodes=[helper.make_node("Mystery\x1b[31m\n" * 1000, ["x"], ["y"], domain="d" * 9000)])
    made.opset_import.add(domain="d" * 9000, version=1)
    net = import_onnx(put(tmp_path, made.SerializeToString()))
    (name,) = net.info["unpriced"]
    assert len(name) <= 100 and name.isprintable()


ODD = [
    ("MatMul", ["x", "w"], {}), ("Gemm", ["x"], {}), ("Conv", ["x", "w"], {"group": 0}), ("Gather", ["w"], {}),
    ("Conv", ["x", "w"], {"strides": [0, 0]}), ("Softmax", ["x"], {"axis": 99}), ("Softmax", ["x"], {"axis": "one"}),
    ("LayerNormalization", ["x", "w"], {"axis": -7}), ("Einsum", ["x", "w"], {"equation": "..."}),
    ("Einsum", ["x", "w"], {"equation": "ij,jk->" + "k" * 999}), ("Attention", ["x", "x", "x"], {}),
    ("Add", [], {}), ("Relu", [], {}), ("Concat", [], {}), ("GroupNormalization", ["x", "w", "w"], {"num_groups": 0}),
    ("Gemm", ["x", "w"], {"transA": "yes"}), ("ReduceSum", [""], {}), ("Where", ["x"], {}), ("Constant", [], {}),
]  # fmt: skip


@pytest.mark.parametrize("kind", range(len(ODD)))
def test_nodes_that_are_not_as_the_operator_wants(kind: int, tmp_path: Path):
    name, inputs, attributes = ODD[kind]
    made = model(nodes=[helper.make_node(name, inputs, ["y"], **attributes)])
    try:
        net = import_onnx(put(tmp_path, made.SerializeToString()))
    except InputError as error:
        assert len(str(error)) < 2000
    else:
        assert net.ops or net.info["unpriced"]


def attempt(call: Callable[[Path], object], file: Path) -> None:
    """Either a result or an InputError, within seconds."""
    start = time.process_time()
    try:
        made = call(file)
        if isinstance(made, Workload):
            assert made.flops >= 0 and made.bytes() >= 0
    except InputError as error:
        assert str(error).strip() and len(str(error)) < 20_000
    assert time.process_time() - start < 5


def mutated(data: bytes, chance: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        place = chance.randrange(len(out))
        match chance.randrange(4):
            case 0:
                out[place] = chance.randrange(256)
            case 1:
                out[place] ^= 1 << chance.randrange(8)
            case 2:
                del out[place : place + chance.randrange(1, 9)]
            case _:
                out[place:place] = out[chance.randrange(len(out)) :][: chance.randrange(1, 40)]
        out = out or bytearray(b"\0")
    return bytes(out)


KINDS = sorted([*FREE, *LOWER, "If", "Loop", "Range", "TopK"])
SIZES = (-1, 0, 1, 2, 3, 4, 8, 9, 2**31, 2**40, 2**62)


def scrambled(data: bytes, chance: random.Random) -> bytes:
    """A model that still decodes: other operators, inputs, attributes, sizes and types."""
    made = onnx.ModelProto.FromString(data)
    graph = made.graph
    for _ in range(chance.choice((1, 2, 4))):
        node = chance.choice(graph.node)
        match chance.randrange(6):
            case 0:
                node.op_type = chance.choice(KINDS)
            case 1 if node.input:
                node.input[chance.randrange(len(node.input))] = chance.choice(("", "x", "w", "q", "to", "k"))
            case 2 if node.attribute:
                attribute = chance.choice(node.attribute)
                attribute.i = chance.choice(SIZES)
                attribute.ints[:] = [chance.choice(SIZES) for _ in attribute.ints]
            case 3:
                tensor = chance.choice(graph.initializer)
                tensor.dims[:] = [chance.choice(SIZES) for _ in range(chance.randrange(5))]
            case 4:
                chance.choice(graph.initializer).data_type = chance.randrange(30)
            case _:
                shape = chance.choice(graph.input).type.tensor_type.shape
                chance.choice(shape.dim).dim_value = chance.choice(SIZES)
    made.opset_import[0].version = chance.choice((1, 7, 12, 13, 18, 23))
    return bytes(made.SerializeToString())


def seeds() -> list[bytes]:
    nodes = [
        helper.make_node("Reshape", ["x", "to"], ["r"]), helper.make_node("Softmax", ["r"], ["s"], axis=-1),
        helper.make_node("MatMul", ["s", "w"], ["m"]),
        helper.make_node("Attention", ["q", "q", "q"], ["a"], is_causal=1),
        helper.make_node("Conv", ["q", "k"], ["c"], pads=[1, 1, 1, 1]), helper.make_node("Einsum", ["x", "w"], ["e"],
        equation="ij,jk->ik"), helper.make_node("Concat", ["m", "e"], ["y"], axis=0),
    ]  # fmt: skip
    wide = model(nodes=nodes)
    wide.graph.initializer.append(helper.make_tensor("to", 7, [2], [4, 8]))
    wide.graph.initializer.append(helper.make_tensor("k", 1, [2, 2, 3, 3], [0.0] * 36))
    wide.graph.input.append(helper.make_tensor_value_info("q", 1, [1, 2, 4, 8]))
    return [GOOD, wide.SerializeToString(), external("w.bin")]


def test_mutated_models(tmp_path: Path):
    """In a process of its own, so that a crash of native code is a failure and not the end of the run."""
    code = f"""
import random, sys
from pathlib import Path
from tests.robust.test_import_files import attempt, import_onnx, mutated, scrambled, seeds
chance, file = random.Random(11), Path({str(tmp_path)!r}) / "net.onnx"
good = seeds()
for data in good:
    file.write_bytes(data)
    import_onnx(file)
for turn in range({MUTATIONS}):
    file.write_bytes((mutated if turn % 2 else scrambled)(chance.choice(good), chance))
    attempt(import_onnx, file)
print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "done", done.stderr[-2000:]


def test_nothing_but_the_given_file_is_opened(tmp_path: Path):
    """Every file of this module, hostile ones included, with the interpreter's own audit of ``open``."""
    bait = tmp_path / "w.bin"
    bait.write_bytes(b"never read")
    cases = [data for data, _ in (*FILES.values(), *GRAPHS.values())]
    cases += [external(place) for place in ("../w.bin", "/etc/passwd", "w.bin", str(bait))] + seeds()
    for number, data in enumerate(cases):
        (tmp_path / f"{number}.onnx").write_bytes(data)
    (tmp_path / "net.csv").write_text("fc,1,2,3\n")
    (tmp_path / "net.cfg").write_text("[a]\nArrayHeight = x\n")
    code = f"""
import sys
from pathlib import Path
from npusim.errors import InputError
from npusim.importers.onnx_graph import import_onnx
from npusim.importers.scalesim import import_scalesim_config, import_scalesim_topology
folder, opened, watching = Path({str(tmp_path)!r}), [], False
def note(event, arguments):
    if watching and event == "open":
        opened.append(str(arguments[0]))
def run(call, file):
    try:
        call(file)
    except InputError:
        pass
files = [(import_onnx, folder / f"{{n}}.onnx") for n in range({len(cases)})]
files += [(import_scalesim_topology, folder / "net.csv"), (import_scalesim_config, folder / "net.cfg")]
for call, file in files:  # everything lazy is imported by now
    run(call, file)
sys.addaudithook(note)
for call, file in files:
    opened.clear()
    watching = True
    run(call, file)
    watching = False
    assert set(opened) <= {{str(file)}}, (file, opened)
print("done", len(files))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.split() == ["done", str(len(cases) + 2)], done.stderr[-2000:]


@given(st.text(alphabet=st.sampled_from("abMNK,0123456789-.: \n\tDP\0é=[]#"), max_size=120))
def test_any_text_as_scalesim_files(tmp_path_factory: pytest.TempPathFactory, text: str):
    file = tmp_path_factory.getbasetemp() / "scalesim.txt"
    file.write_text(text)
    for rounding in ("floor", "scalesim"):
        attempt(lambda path, how=rounding: import_scalesim_topology(path, rounding=how), file)  # type: ignore[misc]
    attempt(import_scalesim_config, file)


@pytest.mark.parametrize("data", [b"\xff\xfe\0", b"a,1,2,3\n" * 150_000, b"x" * (2**20 + 1), b"," * 10**6])
def test_bytes_that_are_no_scalesim_file(data: bytes, tmp_path: Path):
    file = tmp_path / "net.csv"
    file.write_bytes(data)
    for call in (import_scalesim_topology, import_scalesim_config):
        with pytest.raises(InputError) as caught:
            call(file)
        assert len(str(caught.value)) < 20_000

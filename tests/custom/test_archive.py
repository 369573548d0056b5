"""Hostile `torch.export` archives: nothing in them runs, each is refused in one line."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from torch import nn

from deeprecsys.core.errors import InputError
from deeprecsys.zoo.custom import archive
from deeprecsys.zoo.custom.describe import describe
from deeprecsys.zoo.custom.prepare import own_model

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.export's own

Entries = list[tuple[str, bytes]]
PROGRAM = "small/models/model.json"
WEIGHTS = "small/data/weights/model_weights_config.json"
CONSTANTS = "small/data/constants/model_constants_config.json"


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.goods, self.out = nn.Embedding(30, 4), nn.Linear(6, 1)

    def forward(self, item: torch.Tensor, price: torch.Tensor) -> torch.Tensor:
        return self.out(torch.cat([self.goods(item), price], 1))


class Runs:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Entries:
    """Entries of a good archive."""
    path, n = tmp_path_factory.mktemp("archive") / "small.pt2", torch.export.Dim("n")
    example = (torch.arange(5), torch.zeros(5, 2))
    program = torch.export.export(Small().eval(), example, dynamic_shapes=({0: n}, {0: n}))
    torch.export.save(program, path, extra_files={"note.txt": "made for a test"})
    with zipfile.ZipFile(path) as file:
        return [(name, file.read(name)) for name in file.namelist()]


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


def write(path: Path, entries: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> str:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in entries:
            file.writestr(name, data)
    return str(path)


def with_json(entries: Entries, name: str, change: Callable[[dict], object]) -> Entries:
    """The entries, the values of one changed."""
    values = json.loads(dict(entries)[name])
    change(values)
    return [(n, json.dumps(values).encode() if n == name else data) for n, data in entries]


def evil(marker: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"goods.weight": Runs(marker)}, buffer)
    return buffer.getvalue()


def refused(path: str, said: str, marker: Path, load: Callable[[str], object] = archive.load) -> None:
    with pytest.raises(InputError, match=said) as refusal:
        load(path)
    text = str(refusal.value)
    assert text.startswith(f"model {path}: expected ")
    assert "\n" not in text
    assert not marker.exists()


def test_a_good_archive_is_loaded(small: Entries, tmp_path: Path) -> None:
    assert describe(write(tmp_path / "good.pt2", small)).keys == {"goods.weight": "goods.weight"}
    prepended = tmp_path / "prepended.pt2"
    prepended.write_bytes(b"#!/bin/sh\n" * 100 + (tmp_path / "good.pt2").read_bytes())
    assert own_model(str(prepended)).keys == {"goods.weight": "goods.weight"}


class Varied(nn.Module):
    """A buffer, a constant, a branch, sizes that are expressions, arguments in containers."""

    def __init__(self) -> None:
        super().__init__()
        self.goods, self.constant = nn.Embedding(30, 4), torch.arange(4.0)
        self.register_buffer("scale", torch.full((4,), 2.0))

    def forward(self, query: dict[str, torch.Tensor], price: torch.Tensor) -> list[torch.Tensor]:
        with torch.no_grad():
            scale = self.scale * 2
        rows = self.goods(query["item"] & 7) * scale + self.constant
        half = torch.cat([rows, rows]).reshape(-1, 8) * (price.shape[0] // 2)
        price = torch.cond(price.sum() > 0, lambda x: x + 1, lambda x: x - 1, (price,))
        return [rows.sum(1) + price.sum() / (price.shape[0] ** 2 + 1), half]


def test_a_good_archive_of_many_constructs_computes_what_it_did(tmp_path: Path) -> None:
    module, n = Varied().eval(), torch.export.Dim("n")
    example = ({"item": torch.arange(6)}, torch.randn(6, 2))
    shapes = {"query": {"item": {0: n}}, "price": {0: n}}
    torch.export.save(torch.export.export(module, example, dynamic_shapes=shapes), tmp_path / "m.pt2")
    loaded = archive.load(str(tmp_path / "m.pt2")).module()
    for items in (6, 9):
        query = ({"item": torch.arange(items)}, torch.randn(items, 2))
        for found, wanted in zip(loaded(*query), module(*query), strict=True):
            torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("pickled", ["state_dict", "constants", "example_inputs"])
def test_a_pickle_in_the_older_layout_does_not_run(
    pickled: str, small: Entries, tmp_path: Path, marker: Path
) -> None:
    program = dict(small)[PROGRAM]
    version = json.loads(program)["schema_version"]
    buffer = io.BytesIO()
    torch.save(Small().state_dict(), buffer)
    parts = {"state_dict": buffer.getvalue(), "constants": b"", "example_inputs": b""}
    parts[pickled] = evil(marker)
    entries = [
        ("version", f"{version['major']}.{version['minor']}".encode()),
        ("serialized_exported_program.json", program),
        *((f"serialized_{name}.pt", data) for name, data in parts.items()),
    ]
    refused(
        write(tmp_path / "old.pt2", entries), "expected the entries of .* got 'version'", marker, describe
    )


@pytest.mark.parametrize(
    "name",
    [
        "small/data/aotinductor/model/model.so",
        "small/data/aotinductor/model/model.wrapper.so",
        "small/data/weights/model.pt",
        "small/data/constants/model.pt",
        "small/data/constants/custom_obj_0",
        "small/data/constants/opaque_obj_0",
        "small/models/other.json",
        "small/data/sample_inputs/other.pt",
        "small/executorch/program.pte",
        "small/something",
        "small/extra/../models/model.json",
        "../small/models/model.json",
        "/small/models/model.json",
        "small/models/MODEL.json",
        "small\\models\\model.json",
        "small/data/weights/weight_0\0.so",
    ],
)
def test_an_entry_that_is_not_known_to_be_harmless_refuses_the_file(
    name: str, small: Entries, tmp_path: Path, marker: Path
) -> None:
    path = write(tmp_path / "m.pt2", [*small, ("X" * len(name), evil(marker))])
    data = Path(path).read_bytes().replace(b"X" * len(name), name.encode())  # as zipfile would not write it
    Path(path).write_bytes(data)
    refused(path, "expected the entries of a torch.export archive with tensors alone, got", marker)


def test_duplicates_a_second_root_compression_and_noise_are_refused(
    small: Entries, tmp_path: Path, marker: Path
) -> None:
    path = tmp_path / "m.pt2"
    refused(write(path, [*small, small[0]]), "expected each entry once, got 'small/data", marker)
    other = ("other/data/weights/weight_99", b"")
    refused(write(path, [*small, other]), "expected one root folder, got 2", marker)
    bomb = ("small/extra/bomb", bytes(1 << 24))
    refused(write(path, [*small, bomb], zipfile.ZIP_DEFLATED), "got 'small/.*' compressed", marker)
    path.write_bytes(b"PK\3\4" + os.urandom(300))
    refused(str(path), "expected a torch.export archive", marker)


def test_entries_that_share_their_bytes_are_refused(small: Entries, tmp_path: Path, marker: Path) -> None:
    """A bomb without compression: many names of one large entry."""
    path, many = tmp_path / "m.pt2", 40
    names = [f"small/extra/{k:02d}" for k in range(many)]
    write(path, [*small, (names[0], bytes(1 << 20)), *((n, b"") for n in names[1:])])
    with zipfile.ZipFile(path) as file:
        first = file.getinfo(names[0])
        at = file.start_dir
    data = bytearray(path.read_bytes())
    for name in names[1:]:
        entry = data.index(name.encode(), at) - 46  # of the central directory
        data[entry + 16 : entry + 28] = (
            first.CRC.to_bytes(4, "little") + first.file_size.to_bytes(4, "little") * 2
        )
        data[entry + 42 : entry + 46] = first.header_offset.to_bytes(4, "little")
    path.write_bytes(data)
    refused(str(path), "expected entries of at most the file's", marker)


def test_what_is_marked_as_pickled_is_refused(small: Entries, tmp_path: Path, marker: Path) -> None:
    def pickled(values: dict) -> None:
        next(iter(values["config"].values()))["use_pickle"] = True

    def elsewhere(values: dict) -> None:
        next(iter(values["config"].values()))["path_name"] = "../sample_inputs/model.pt"

    def opaque(values: dict) -> None:
        values["config"]["it"] = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": False}

    path = tmp_path / "m.pt2"
    refused(write(path, with_json(small, WEIGHTS, pickled)), "got '.*' pickled", marker)
    refused(write(path, with_json(small, WEIGHTS, elsewhere)), "got '.*' in '../sample_inputs/mod", marker)
    refused(write(path, with_json(small, CONSTANTS, opaque)), "got 'it' in 'opaque_obj_0'", marker)


def test_sample_inputs_are_not_unpickled(small: Entries, tmp_path: Path, marker: Path) -> None:
    """Described in this process, which no sandbox keeps from making the file."""
    samples = "small/data/sample_inputs/model.pt"
    for k, data in enumerate([evil(marker), pickle.dumps(Runs(marker)), b"noise"]):
        entries = [(n, data if n == samples else d) for n, d in small]
        assert describe(write(tmp_path / f"{k}.pt2", entries)).keys
    assert not marker.exists()


def expressions(value: object) -> Iterable[dict]:
    """The sizes in a program that are expressions."""
    if isinstance(value, dict):
        if "expr_str" in value:
            yield value
        for each in value.values():
            yield from expressions(each)
    elif isinstance(value, list):
        for each in value:
            yield from expressions(each)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').mkdir({!r})",
        "Symbol('s0', positive=__import__('os').mkdir({!r}))",
        "(lambda: Symbol('s0'))()",
        "preview(s0)",
        "lambdify(s0, s0)",
        "s0.__class__",
        "[s0][0]",
        "s0#\n+s1",
        "Add('preview(s0)')",
        "Symbol(\"__import__('os').mkdir({!r})\")",
    ],
)
def test_a_size_is_arithmetic(text: str, small: Entries, tmp_path: Path, marker: Path) -> None:
    def change(values: dict) -> None:
        for size in list(expressions(values)):
            size["expr_str"] = text.format(str(marker))

    path = write(tmp_path / "m.pt2", with_json(small, PROGRAM, change))
    refused(path, "expected sizes of symbols and numbers, got", marker)


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.mkdir",
        "torch.ops.load_library",
        "torch.ops.aten.__init__.__call__",
        "torch.ops.aten.from_file.default",
        "torch.ops.higher_order.triton_kernel_wrapper_mutation",
        "_operator.methodcaller",
        "#extension:x",
    ],
)
def test_an_operator_is_one_of_torchs(target: str, small: Entries, tmp_path: Path, marker: Path) -> None:
    def change(values: dict) -> None:
        node = values["graph_module"]["graph"]["nodes"][0]
        node["target"] = target
        node["inputs"] = [{"name": "path", "arg": {"as_string": str(marker)}, "kind": 1}]

    path = write(tmp_path / "m.pt2", with_json(small, PROGRAM, change))
    refused(path, "expected operators of torch.ops.aten, got", marker)


def test_a_description_of_arguments_imports_nothing(
    small: Entries, tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    enumeration = json.dumps([{"__enum__": True, "fqn": "beside:X", "name": "A"}])
    factory = {"default_factory_module": "beside", "default_factory_name": "X", "dict_context": []}
    for kind, context in (("builtins.dict", enumeration), ("collections.defaultdict", factory)):

        def change(values: dict, kind: str = kind, context: object = context) -> None:
            spec = [1, {"type": kind, "context": context, "children_spec": []}]
            values["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = json.dumps(spec)

        path = write(tmp_path / "m.pt2", with_json(small, PROGRAM, change))
        refused(path, "expected arguments in tuples, lists and dictionaries", marker)


def test_modules_beside_a_file_are_not_imported(
    small: Entries, tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("numpy", "torch", "onnx_ir"):
        (tmp_path / f"{name}.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    write(tmp_path / "m.pt2", small)
    monkeypatch.chdir(tmp_path)
    assert own_model("m.pt2").keys
    assert not marker.exists()


def mutated(name: str, rng: random.Random) -> str:
    """A name changed as an author of such files might change it."""
    parts = name.split("/")
    k = rng.randrange(len(parts))
    word = rng.choice(
        [
            "..",
            ".",
            "",
            "aotinductor",
            "custom_obj_0",
            "opaque_obj_0",
            "version",
            "model.pt",
            "model.so",
            "%00",
        ]
    )
    changes: list[Callable[[], list[str]]] = [
        lambda: [*parts[:k], word, *parts[k:]],
        lambda: [*parts[:k], word, *parts[k + 1 :]],
        lambda: [*parts[:k], *parts[k + 1 :]],
        lambda: [*parts[:k], parts[k].swapcase(), *parts[k + 1 :]],
        lambda: [*parts[:k], parts[k] + rng.choice("0 .\\~é/"), *parts[k + 1 :]],
        lambda: [*parts[:k], parts[k][:-1], *parts[k + 1 :]],
    ]
    return "/".join(rng.choice(changes)()) or "x"


def test_archives_with_mutated_names_are_refused_or_load(
    small: Entries, tmp_path: Path, marker: Path
) -> None:
    rng, loaded = random.Random(5), 0
    for _ in range(250):
        entries = list(small)
        for k in rng.sample(range(len(entries)), rng.choice([1, 1, 2])):
            name, data = entries[k]
            entries[k] = (mutated(name, rng), rng.choice([data, evil(marker)]))
        path = write(tmp_path / "m.pt2", entries)
        try:
            archive.load(path)
            loaded += 1
        except InputError as e:
            assert str(e).startswith(f"model {path}: expected ")  # noqa: PT017 - either is right
        assert not marker.exists()
    assert loaded < 100


def test_external_data_lies_in_the_models_folder(
    tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    (tmp_path / "secret").write_bytes(np.ones(160, np.float32).tobytes())
    table = numpy_helper.from_array(np.zeros((40, 4), np.float32), "t")
    onnx.external_data_helper.set_external_data(table, "../secret", 0, 640)
    table.ClearField("raw_data")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["t", "item"], ["r"]), helper.make_node("Identity", ["r"], ["y"])],
        "test",
        [helper.make_tensor_value_info("item", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [table],
    )
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.chdir(folder)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    Path("m.onnx").write_bytes(model.SerializeToString())

    from deeprecsys.zoo.custom.fill import fill

    own = describe("m.onnx")
    fd = os.memfd_create("tables")
    try:
        os.ftruncate(fd, 4096)
        with pytest.raises(InputError, match=r"m\.onnx.*\.\./secret"):
            fill("m.onnx", fd, {"t": (0, 40, 4, own.keys["t"])})
        assert os.pread(fd, 640, 0) == bytes(640)
    finally:
        os.close(fd)

"""Ids that are columns of one input: each table is found, and shared, as with an input of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from torch import nn

from deeprecsys.core.errors import InputError
from deeprecsys.engine import SliceView, build
from deeprecsys.zoo.custom.describe import describe
from deeprecsys.zoo.schema import DenseInput
from tests.custom.test_describe import AXIS1, FLOAT, IDS, TABLE, assembly, onnx_file
from tests.custom.test_signature import features

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.export's own
ROWS = (20, 21, 22)


def tables(*rows: int, dim: int = 4) -> nn.ModuleList:
    return nn.ModuleList([nn.Embedding(n, dim) for n in rows])


class Selected(nn.Module):
    """ids [n, 3], a column for each table."""

    def __init__(self) -> None:
        super().__init__()
        self.tables, self.out = tables(*ROWS), nn.Linear(12, 1)

    def forward(self, ids):
        return self.out(torch.cat([table(ids[:, k]) for k, table in enumerate(self.tables)], 1))


class Mixed(nn.Module):
    """x [n, 9]: three ids with two tables each, two numbers, a history of four ids with a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.deep, self.wide = tables(*ROWS), tables(*ROWS, dim=1)
        self.history, self.out = nn.Embedding(30, 4), nn.Linear(18, 1)

    def forward(self, x):
        ids = [x[:, k : k + 1].long() for k in range(3)]
        deep = torch.flatten(torch.cat([t(i) for t, i in zip(self.deep, ids, strict=True)], 1), start_dim=1)
        wide = torch.cat([t(i) for t, i in zip(self.wide, ids, strict=True)], -1).sum(-1)
        mask = (x[:, 5:9] != 0).float().unsqueeze(2)
        history = (self.history(x[:, 5:9].long()) * mask).sum(1) / mask.sum(1).clamp(min=1)
        return torch.sigmoid(self.out(torch.cat([deep, x[:, 3:5], history], 1)) + wide)


class Parted(nn.Module):
    """ids [n, 5] in parts: one, one in another shape, three that are summed."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = tables(*ROWS)

    def forward(self, ids):
        a, b, c = ids.split([1, 1, 3], 1)
        first, second, third = self.tables
        return (first(a.squeeze(1)) * second(b.reshape(-1)) + third(c).sum(1)).sum(1)


class Unbound(nn.Module):
    """ids [n, 2] of 32 bits, and numbers [n] that index a table too."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = tables(*ROWS)

    def forward(self, ids, group):
        (a, b), (first, second, third) = ids.long().unbind(1), self.tables
        return (first(a) * second(b) * third(group.long().unsqueeze(1)).squeeze(1)).sum(1, keepdim=True)


COLUMN = [(0,), (1,), (2,)]
CASES = {
    "selected": (Selected, [(torch.int64, (3,))], COLUMN, []),
    "mixed": (
        Mixed, [(torch.float32, (9,))], [*COLUMN, *COLUMN, (5, 6, 7, 8)],
        [DenseInput("x", 9, ids=((0, 20), (1, 21), (2, 22), *((k, 30) for k in (5, 6, 7, 8))))],
    ),
    "parted": (Parted, [(torch.int64, (5,))], [(0,), (1,), (2, 3, 4)], []),
    "unbound": (Unbound, [(torch.int32, (2,)), (torch.float32, ())], [(0,), (1,), ()], []),
}  # fmt: skip


def export(name: str, folder: Path) -> None:
    """Write a case's module in every form, of the same weights: `m.pt2`, `m.onnx` and `old.onnx`."""
    torch.manual_seed(0)
    module, given = CASES[name][0]().eval(), CASES[name][1]
    example = tuple(torch.zeros(5, *row, dtype=kind) for kind, row in given)
    n = torch.export.Dim("n")
    program = torch.export.export(module, example, dynamic_shapes=tuple({0: n} for _ in example))
    torch.export.save(program, folder / "m.pt2")
    made = torch.onnx.export(program, dynamo=True, verbose=False)
    made.save(folder / "m.onnx")
    names = [str(i.name) for i in made.model.graph.inputs]
    axes = {name: {0: "n"} for name in names}
    old = folder / "old.onnx"
    torch.onnx.export(module, example, old, dynamo=False, input_names=names, dynamic_axes=axes)


@pytest.fixture(scope="module", params=CASES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A case's name, and the folder of its files."""
    folder = tmp_path_factory.mktemp("columns")
    export(request.param, folder)
    return request.param, folder


@pytest.mark.parametrize("form", ["m.pt2", "m.onnx", "old.onnx"])
def test_tables_are_found_behind_columns(exported: tuple[str, Path], form: str) -> None:
    name, folder = exported
    path, same = str(folder / form), folder / "m.onnx"
    own = describe(path)
    feeds = [feed for t in own.schema.signature.inputs for feed in t.feeds]
    sparse = {i.name for i in own.schema.sparse}
    assert sorted(f.columns for f in feeds if f.input in sparse) == sorted(CASES[name][2])
    assert own.schema.dense == tuple(CASES[name][3])
    assert not {i.name for i in onnx.load_from_string(own.graph).graph.initializer} & set(own.keys)
    assert own.splittable
    about, layout = assembly(own)
    first, given = layout.rows_at(2), {n: np.abs(np.trunc(a)) for n, a in features(own, 7, most=20).items()}
    for t in own.schema.signature.inputs:
        rows = given[t.name].reshape(7, -1)
        for feed in t.feeds:
            into = about.inputs[feed.input][first[feed.input] :][:7]
            into[...] = rows[:, feed.columns or slice(None)]
    session = onnxruntime.InferenceSession(same)
    names = [i.name for i in session.get_inputs()]
    (wanted,) = session.run(None, {n: given[n] for n in names})
    for engine in ("eager", "compiled"):
        out = np.empty((7, 1), np.float32)
        build(engine, about).score([SliceView(first, 0, 7, out)])
        np.testing.assert_allclose(out, wanted.reshape(7, 1), atol=1e-5)


def part(op: str, *more: str, outputs: tuple[str, ...] = ("part",), **attributes: int) -> onnx.NodeProto:
    return helper.make_node(op, ["x", *more], list(outputs), **attributes)


CONSTANTS = {
    "zero": np.array([0]), "one": np.array([1]), "two": np.array([2]), "end": np.array([2**40]),
    "both": np.array([0, 1]), "last": np.array([-1]), "third": np.array(2), "pairs": np.array([-1, 2, 1]),
    "mixing": np.array([-1]), "backwards": np.array([3, 1, 0]), "lower": np.array([0, 1]),
    "upper": np.array([2**40, 3]), "twos": np.array([2, 2]), "added": np.zeros((3, 4), np.int64),
}  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "columns"),
    [
        ([part("Gather", "third", axis=1)], [(2,)]),
        ([part("Gather", "third", axis=-1)], [(2,)]),
        ([part("Gather", "backwards", axis=1)], [(3, 1, 0)]),
        ([part("Slice", "one", "end", "one")], [(1, 2, 3)]),
        ([part("Slice", "lower", "upper", "both")], [(1, 2)]),  # all items
        ([part("Slice", "zero", "two", "last")], [(0, 1)]),
        ([part("Split", "twos", outputs=("other", "part"), axis=1)], [(2, 3)]),
        ([part("Flatten")], [()]),
        ([part("Slice", "zero", "two", "one", outputs=("two_",)),
          helper.make_node("Reshape", ["two_", "pairs"], ["part"])], [(0, 1)]),
        ([part("Slice", "zero", "one", "one", outputs=("one_",)),
          helper.make_node("Reshape", ["one_", "mixing"], ["part"])], [(0,)]),
    ],
)  # fmt: skip
def test_ways_to_choose_columns(nodes: list[onnx.NodeProto], columns, tmp_path: Path) -> None:
    own = describe(chosen(nodes, tmp_path))
    assert [feed.columns for t in own.schema.signature.inputs for feed in t.feeds] == columns


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([part("Reshape", "mixing")], "Reshape"),  # items and columns together
        ([part("Transpose", perm=[1, 0])], "Transpose"),
        ([part("Mul", "two")], "Mul"),
        ([part("Add", "added")], "Add"),  # more than one row
    ],
)
def test_ids_that_are_not_columns_as_they_are_go_to_the_dense_stage(nodes, said: str, tmp_path: Path) -> None:
    rest = [
        helper.make_node("Gather", ["t", "part"], ["rows"]),
        helper.make_node("Reshape", ["rows", "mixing4"], ["flat"]),
        helper.make_node("ReduceSum", ["flat", "axes"], ["y"]),
    ]
    constants = {"t": TABLE, **AXIS1, **CONSTANTS, "mixing4": np.array([-1, 16])}
    path = onnx_file(tmp_path / "m.onnx", [*nodes, *rest], {"x": (IDS, ["n", 4])}, constants)
    if said == "Add":
        with pytest.raises(InputError, match="expected scores for"):
            describe(path)
        return
    own = describe(path)
    assert [type(i) for i in own.schema.inputs] == [DenseInput]
    assert own.schema.signature.inputs[0].datatype == "INT64"
    assert f"they go to {said}: the dense stage gets them as numbers" in own.notes[0]
    assert f"table 't' FLOAT [40, 4]: indexed by what {said} gives" in own.notes[1]


def chosen(nodes: list[onnx.NodeProto], folder: Path) -> str:
    """A model that sums the rows of some of the ids x [n, 4]."""
    rest = [
        helper.make_node("Gather", ["t", "part"], ["rows"]),
        helper.make_node("Flatten", ["rows"], ["flat"]),
        helper.make_node("ReduceSum", ["flat", "axes"], ["y"]),
    ]
    return onnx_file(
        folder / "m.onnx", [*nodes, *rest], {"x": (IDS, ["n", 4])}, {"t": TABLE, **AXIS1, **CONSTANTS}
    )


def test_numbers_that_index_after_arithmetic_stay_numbers(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Clip", ["x"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["ids"], to=IDS),
        helper.make_node("Gather", ["t", "ids"], ["rows"]),
        helper.make_node("Flatten", ["rows"], ["flat"]),
        helper.make_node("ReduceSum", ["flat", "axes"], ["y"]),
    ]
    path = onnx_file(tmp_path / "m.onnx", nodes, {"x": (FLOAT, ["n", 2])}, {"t": TABLE, **AXIS1})
    assert describe(path).schema.inputs == (DenseInput("x", 2, ids=((0, 40), (1, 40))),)

"""The tensors of a file's own signature: names, types and ranks stay as the file has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from deeprecsys.engine import SliceView, build
from deeprecsys.zoo.custom import Own
from deeprecsys.zoo.custom.describe import describe
from deeprecsys.zoo.schema import DenseInput, Feed, Per, Schema, Signature, SparseInput, Table, TensorSpec
from tests.custom.test_describe import AXIS1, FLOAT, IDS, OTHER, TABLE, assembly, onnx_file

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.export's own
INT32 = TensorProto.INT32
NODES = [
    helper.make_node("Gather", ["t", "{ids}"], ["a"]),
    helper.make_node("Gather", ["u", "{ids}"], ["b"]),
    helper.make_node("Add", ["a", "b"], ["{inner}"]),
    helper.make_node("ReduceSum", ["{inner}", "axes"], ["summed"], keepdims=0),
    helper.make_node("Mul", ["summed", "{price}"], ["priced"]),
    helper.make_node("ReduceSum", ["{image}", "both"], ["seen"], keepdims=0),
    helper.make_node("Add", ["priced", "seen"], ["moved"]),
    helper.make_node("Add", ["moved", "{user}"], ["{out}"]),
]
PLAIN = {"ids": "ids", "price": "price", "image": "image", "user": "user", "inner": "inner", "out": "y"}
STRANGE = {
    "ids": "serving_default_ids:0",
    "price": "scores",  # what the output of a dense stage is called within
    "image": "serving_default_ids:0/1",  # what the second table's input would be
    "user": "self",
    "inner": "slice_of_item",
    "out": "Wahrscheinlichkeit für %/{}",
}


def file(path: Path, names: dict[str, str], ids: int = IDS) -> str:
    """A model of tensors [n], [n], [n, 2, 3] and [1] that gives [n]."""
    nodes = []
    for node in NODES:
        made = helper.make_node(node.op_type, [], [])
        made.CopyFrom(node)
        for field in (made.input, made.output):
            field[:] = [names.get(n.strip("{}"), n) if n[0] == "{" else n for n in field]
        nodes.append(made)
    inputs = {
        names["ids"]: (ids, ["n"]),
        names["price"]: (FLOAT, ["n"]),
        names["image"]: (FLOAT, ["n", 2, 3]),
        names["user"]: (FLOAT, [1]),
    }
    constants = {"t": TABLE, "u": OTHER[:30], **AXIS1, "both": np.array([1, 2], np.int64)}
    return onnx_file(path, nodes, inputs, constants, (names["out"],))


def features(own: Own, items: int, most: int = 30) -> dict[str, np.ndarray]:
    """A request of the tensors that the signature states."""
    rng, found = np.random.default_rng(items), {}
    for t in own.schema.signature.inputs:
        shape = items if t.per is Per.ITEM else 1, *t.row
        values = rng.standard_normal(shape) if t.datatype[:2] == "FP" else rng.integers(0, most, shape)
        found[t.name] = values.astype(t.dtype)
    return found


@pytest.mark.parametrize("names", [PLAIN, STRANGE], ids=["plain", "strange"])
@pytest.mark.parametrize(("ids", "datatype"), [(IDS, "INT64"), (INT32, "INT32")])
def test_an_onnx_file_keeps_its_signature(names, ids: int, datatype: str, tmp_path: Path) -> None:
    path = file(tmp_path / "m.onnx", names, ids)
    own = describe(path)
    assert Own.unpack(own.pack()) == own
    signature = own.schema.signature
    assert [(t.name, t.datatype, t.shape) for t in signature.inputs] == [
        (names["ids"], datatype, (-1,)),
        (names["price"], "FP32", (-1,)),
        (names["image"], "FP32", (-1, 2, 3)),
        (names["user"], "FP32", (1,)),
    ]
    assert [(t.name, t.shape) for t in signature.outputs] == [(names["out"], (-1,))]
    assert [len(t.feeds) for t in signature.inputs] == [2, 1, 1, 1]
    about, layout = assembly(own)
    first, given = layout.rows_at(2), features(own, 7)
    for t in signature.inputs:
        rows = given[t.name].reshape(len(given[t.name]), -1)
        for feed in t.feeds:
            about.inputs[feed.input][first[feed.input] :][: len(rows)] = rows
    (wanted,) = onnxruntime.InferenceSession(path).run(None, given)
    for engine in ("eager", "compiled"):
        out = np.empty((7, 1), np.float32)
        build(engine, about).score([SliceView(first, 0, 7, out)])
        np.testing.assert_allclose(out[:, 0], wanted, atol=1e-5)


class Ranker(nn.Module):
    """Ids [n] that index two tables, numbers [n], a history [1, 3]; gives [n, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.deep = nn.Embedding(50, 1), nn.Embedding(30, 4)

    def forward(self, input, price, seen):
        deep = self.deep(input) * self.deep(seen).mean(1)
        return self.wide(input) + deep.sum(1, keepdim=True) + price[:, None]


def test_a_pt2_keeps_its_signature(tmp_path: Path) -> None:
    n = torch.export.Dim("n")
    example = (
        torch.zeros(5, dtype=torch.int64),
        torch.zeros(5),
        torch.zeros(1, 3, dtype=torch.int64),
    )
    program = torch.export.export(Ranker().eval(), example, dynamic_shapes=({0: n}, {0: n}, {}))
    torch.export.save(program, tmp_path / "m.pt2")
    own = describe(str(tmp_path / "m.pt2"))
    assert own.schema.signature == Signature(
        (
            TensorSpec("input", "INT64", (), Per.ITEM, (Feed("input"), Feed("input/1"))),
            TensorSpec("price", "FP32", (), Per.ITEM, (Feed("price"),)),
            TensorSpec("seen", "INT64", (3,), Per.QUERY, (Feed("seen"),)),
        ),
        (TensorSpec(*program.graph_signature.user_outputs, "FP32", (1,)),),
    )


SPARSE, DENSE = SparseInput("a", "t"), DenseInput("x", 6)
OUT = TensorSpec("y", "FP32", ())


@pytest.mark.parametrize(
    ("tensors", "output", "said"),
    [
        ([TensorSpec("a", "INT64", (), feeds=(Feed("a"),))], OUT, "do not feed each input once"),
        (
            [
                TensorSpec("x", "FP32", (6,), feeds=(Feed("x"),)),
                TensorSpec("a", "INT64", (), feeds=(Feed("a"),)),
            ],
            OUT,
            "do not feed each input once, in order",
        ),
        (
            [
                TensorSpec("a", "INT64", (), feeds=(Feed("a"),)),
                TensorSpec("x", "FP32", (2, 2), feeds=(Feed("x"),)),
            ],
            OUT,
            "tensor 'x' does not fit",
        ),
        (
            [
                TensorSpec("a", "INT64", (), feeds=(Feed("a"),)),
                TensorSpec("a", "FP32", (6,), feeds=(Feed("x"),)),
            ],
            OUT,
            "two tensors .* share a name",
        ),
        (
            [
                TensorSpec("a", "INT64", (), feeds=(Feed("a"),)),
                TensorSpec("x", "FP32", (6,), feeds=(Feed("x"),)),
            ],
            TensorSpec("y", "FP32", (2,)),
            "'y' do not have 1 scores per item",
        ),
    ],
)
def test_a_signature_that_does_not_fit_its_schema_is_refused(tensors, output, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Schema((Table("t", 40, 4),), (SPARSE, DENSE), 1, Signature(tuple(tensors), (output,)))

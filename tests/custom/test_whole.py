"""Models in which no table, or not every one, is found: served all the same, and what that costs is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from deeprecsys.core.errors import InputError
from deeprecsys.engine import SliceView, build
from deeprecsys.node.runtime.tables import check_copies
from deeprecsys.zoo.custom import register
from deeprecsys.zoo.custom.describe import describe
from deeprecsys.zoo.schema import DenseInput, SparseInput
from tests.custom.test_describe import AXIS1, FLOAT, GATHER, IDS, SUM, TABLE, assembly, onnx_file
from tests.custom.test_signature import features

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.export's own
HALF = TensorProto.FLOAT16


def scores_of(path: str, items: int, most: int = 20, atol: float = 1e-5) -> None:
    """Hold both engines' scores against ONNX Runtime's of the whole file."""
    own = describe(path)
    about, layout = assembly(own)
    first, given = layout.rows_at(2), features(own, items, most)
    for t in own.schema.signature.inputs:
        rows = given[t.name].reshape(items, -1)
        for feed in t.feeds:
            i = next(i for i in own.schema.inputs if i.name == feed.input)
            moved = [f for f, _ in i.fields] if isinstance(i, SparseInput) and i.fields else 0
            part = rows[:, feed.columns or slice(None)] + np.array(moved)
            about.inputs[feed.input][first[feed.input] :][:items] = part
    found = onnxruntime.InferenceSession(path).run(None, given)
    names = [o.name for o in onnxruntime.InferenceSession(path).get_outputs()]
    by_name = dict(zip(names, found, strict=True))
    kept = [by_name[t.name] for t in own.schema.signature.outputs]
    wanted = np.concatenate([np.asarray(k, np.float32).reshape(items, -1) for k in kept], 1)
    for engine in ("eager", "compiled"):
        out = np.empty(wanted.shape, np.float32)
        build(engine, about).score([SliceView(first, 0, items, out)])
        np.testing.assert_allclose(out, wanted, atol=atol)


def trees(path: Path, kind: str, zipped: bool = False, dtype: int = FLOAT) -> str:
    """Two trees of one split each over [n, 3], as LightGBM's converter writes them."""
    per, given = ("target", [0]) if kind == "Regressor" else ("class", [0, 1])
    shape = {
        "nodes_treeids": [0, 0, 0, 1, 1, 1], "nodes_nodeids": [0, 1, 2] * 2,
        "nodes_featureids": [0, 0, 0, 2, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"] * 2, "nodes_values": [0.1, 0, 0, -0.4, 0, 0],
        "nodes_truenodeids": [1, 0, 0] * 2, "nodes_falsenodeids": [2, 0, 0] * 2,
        f"{per}_treeids": [0, 0, 1, 1], f"{per}_nodeids": [1, 2, 1, 2], f"{per}_ids": [given[-1]] * 4,
        f"{per}_weights": [0.2, -0.7, 0.4, 0.1],
    }  # fmt: skip
    more = (
        {"n_targets": 1}
        if kind == "Regressor"
        else {"classlabels_int64s": given, "post_transform": "LOGISTIC"}
    )
    outputs = ["variable"] if kind == "Regressor" else ["label", "numbers" if zipped else "probabilities"]
    nodes = [
        helper.make_node(f"TreeEnsemble{kind}", ["input"], outputs, domain="ai.onnx.ml", **shape, **more)
    ]
    if zipped:
        nodes.append(
            helper.make_node(
                "ZipMap", ["numbers"], ["probabilities"], domain="ai.onnx.ml", classlabels_int64s=given
            )
        )
    kinds, plain = {"label": IDS}, outputs[:1] if zipped else outputs
    made = helper.make_graph(
        nodes, "trees", [helper.make_tensor_value_info("input", dtype, ["N", 3])],
        [helper.make_tensor_value_info(n, kinds.get(n, FLOAT), None) for n in plain],
    )  # fmt: skip
    if zipped:
        made.output.append(onnx.ValueInfoProto(name="probabilities"))
    opsets = [helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=8)
    path.write_bytes(model.SerializeToString())
    return str(path)


@pytest.mark.parametrize(
    ("kind", "zipped", "outputs"),
    [
        ("Regressor", False, [("variable", "FP32", (-1, 1))]),
        ("Classifier", False, [("label", "INT64", (-1,)), ("probabilities", "FP32", (-1, 2))]),
        ("Classifier", True, [("label", "INT64", (-1,)), ("probabilities", "FP32", (-1, 2))]),
    ],
)
def test_boosted_trees_are_served(kind: str, zipped: bool, outputs, tmp_path: Path) -> None:
    own = describe(path := trees(tmp_path / "m.onnx", kind, zipped))
    assert own.schema.inputs == (DenseInput("input", 3),)
    assert [(t.name, t.datatype, t.shape) for t in own.schema.signature.outputs] == outputs
    assert own.splittable
    if not zipped:  # its output is a list of dictionaries
        scores_of(path, 7)


CAST_SUM = [
    helper.make_node("Cast", ["item"], ["x"], to=FLOAT),
    helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0),
]
HASHED = [
    helper.make_node("Mod", ["item", "forty"], ["row"]),
    helper.make_node("Gather", ["t", "row"], ["rows"]),
    SUM,
]
TWICE = [
    GATHER,
    helper.make_node("Gemm", ["rows", "t"], ["near"], transB=1),
    helper.make_node("ReduceMax", ["near", "axes"], ["y"], keepdims=0),
]
FUSED = [
    helper.make_node("Add", ["item", "firsts"], ["row"]),
    helper.make_node("Gather", ["t", "row"], ["rows"]),
    helper.make_node("ReduceSum", ["rows", "both"], ["y"], keepdims=0),
]
HALVES = [
    helper.make_node("Gather", ["t16", "item"], ["rows16"]),
    helper.make_node("ReduceSum", ["rows16", "axes"], ["y16"], keepdims=0),
    helper.make_node("Cast", ["y16"], ["y"], to=FLOAT),
]
SQUARE = [
    helper.make_node("Gather", ["t", "item"], ["rows"]),
    helper.make_node("ReduceSum", ["rows", "rest"], ["y"], keepdims=0),
]
CASES = {
    "numbers": (CAST_SUM, (IDS, ["n", 2]), ["input 'item':"]),
    "hashed": (HASHED, (IDS, ["n"]), ["input 'item':", "table 't'"]),
    "twice": (TWICE, (IDS, ["n"]), []),
    "fused": (FUSED, (IDS, ["n", 3]), []),
    "halves": (HALVES, (IDS, ["n"]), []),
    "bias": ([helper.make_node("Gather", ["bias", "item"], ["y"])], (IDS, ["n"]), []),
    "square": (SQUARE, (IDS, ["n", 2, 2]), []),
}
CONSTANTS = {
    "t": TABLE, **AXIS1, "forty": np.array(40), "firsts": np.array([0, 20, 20]), "both": np.array([1, 2]),
    "t16": TABLE.astype(np.float16), "bias": TABLE[:, 0].copy(), "rest": np.array([1, 2, 3]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_not_a_plain_look_up_scores_as_in_the_file(name: str, tmp_path: Path) -> None:
    nodes, given, notes = CASES[name]
    used = {n for node in nodes for n in node.input}
    constants = {n: c for n, c in CONSTANTS.items() if n in used}
    path = onnx_file(tmp_path / "m.onnx", nodes, {"item": given}, constants)
    own = describe(path)
    assert [note.split(" ", 2)[:2] for note in own.notes] == [n.split(" ") for n in notes]
    fields = [i.fields for i in own.schema.sparse]
    assert fields == {"numbers": [], "hashed": [], "fused": [((0, 20), (20, 20), (20, 20))]}.get(name, [()])
    scores_of(path, 7, atol=1e-2 if name == "halves" else 1e-5)


def test_inputs_of_other_numbers_and_several_outputs(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["seen"], ["as16"], to=HALF),
        helper.make_node("Cast", ["as16"], ["as64"], to=TensorProto.DOUBLE),
        helper.make_node("Add", ["as64", "wide"], ["both"]),
        helper.make_node("ReduceMax", ["both"], ["largest"], keepdims=0),  # of all items
        helper.make_node("Greater", ["wide", "as64"], ["above"]),
        helper.make_node("Unsqueeze", ["both", "axes"], ["deep"]),
    ]
    inputs = {"seen": (TensorProto.BOOL, ["n", 2]), "wide": (TensorProto.DOUBLE, ["n", 2])}
    made = onnx_file(tmp_path / "m.onnx", nodes, inputs, {**AXIS1}, ("both", "largest", "above", "deep"))
    model = onnx.load(made)
    for output, kind in zip(model.graph.output, (11, 11, 9, 11), strict=True):
        output.type.tensor_type.elem_type = kind
    onnx.save(model, made)
    own = describe(made)
    assert [(t.name, t.datatype, t.shape) for t in own.schema.signature.inputs] == [
        ("seen", "BOOL", (-1, 2)), ("wide", "FP64", (-1, 2)),
    ]  # fmt: skip
    assert [(t.name, t.datatype, t.row) for t in own.schema.signature.outputs] == [
        ("both", "FP64", (2,)), ("above", "BOOL", (2,)), ("deep", "FP64", (1, 2)),
    ]  # fmt: skip
    assert own.notes == ("output 'largest' is not returned: expected numbers [n, ...], got float64 []",)
    scores_of(made, 5)


@pytest.mark.parametrize("opset", [11, 13, 21])
def test_operator_sets_and_weights_in_another_file(opset: int, tmp_path: Path) -> None:
    """Sizes are attributes in old operator sets, and inputs in newer ones."""
    new = opset >= 13
    nodes = [
        helper.make_node("Split", ["item", "ones"] if new else ["item"], ["a", "b"], axis=1,
                         **({} if new else {"split": [1, 1]})),
        helper.make_node("Squeeze", ["a", "axes"] if new else ["a"], ["a1"],
                         **({} if new else {"axes": [1]})),
        helper.make_node("Gather", ["t", "a1"], ["first"]),
        helper.make_node("Gather", ["t", "b"], ["rows"]),
        helper.make_node("ReduceSum", ["rows", "axes"] if new else ["rows"], ["second"], keepdims=0,
                         **({} if new else {"axes": [1]})),
        helper.make_node("Mul", ["first", "second"], ["y"]),
    ]  # fmt: skip
    constants = {"t": TABLE, **({**AXIS1, "ones": np.array([1, 1])} if new else {})}
    path = onnx_file(tmp_path / "m.onnx", nodes, {"item": (IDS, ["n", 2])}, constants, opset=opset)
    model = onnx.load(path)
    onnx.save_model(model, path, save_as_external_data=True, location="w.bin", size_threshold=64)
    assert [i.table for i in describe(path).schema.sparse] == ["t", "t"]
    scores_of(path, 6)


def test_a_graph_that_fails_for_one_item_scores_it_as_two(tmp_path: Path) -> None:
    nodes = [
        GATHER,
        helper.make_node("Squeeze", ["rows"], ["short"]),  # also the items, where there is one
        helper.make_node("Concat", ["short", "x"], ["all"], axis=1),
        helper.make_node("ReduceSum", ["all", "axes"], ["y"], keepdims=0),
    ]
    inputs = {"item": (IDS, ["n"]), "x": (FLOAT, ["n", 2])}
    path = onnx_file(tmp_path / "m.onnx", nodes, inputs, {"t": TABLE, **AXIS1})
    own = describe(path)
    assert own.notes == ("the graph fails for a single item: one item is scored as two",)
    assert own.splittable
    scores_of(path, 7)
    about, layout = assembly(own)
    first, out = layout.rows_at(1), np.empty((1, 1), np.float32)
    build("compiled", about).score([SliceView(first, 0, 1, out)])
    item, x = (about.inputs[n][first[n]] for n in ("item", "x"))
    np.testing.assert_allclose(out[0, 0], TABLE[item[0]].sum() + x.sum(), rtol=1e-5)


def test_copies_that_do_not_fit_in_memory_are_refused(tmp_path: Path) -> None:
    own = describe(
        onnx_file(
            tmp_path / "m.onnx", HASHED, {"item": (IDS, ["n"])}, {"t": TABLE, "forty": np.array(40), **AXIS1}
        )
    )
    register(own.pack())
    check_copies(own.name, 4)
    with pytest.raises(
        InputError, match=r"100000000000 workers, each with its own copy of .* expected fewer --workers"
    ):
        check_copies(own.name, 10**11)

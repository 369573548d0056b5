"""What is found out about a user's own model, and what is refused, each in one line."""

from __future__ import annotations

import functools
import mmap
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import nn

from deeprecsys.core.errors import InputError
from deeprecsys.engine import Assembly, SliceView, build
from deeprecsys.workload.features import FeatureLayout
from deeprecsys.zoo.custom import Own, is_own, with_weights
from deeprecsys.zoo.custom.describe import describe
from deeprecsys.zoo.custom.fill import fill
from deeprecsys.zoo.jagged import Ids
from deeprecsys.zoo.networks import dense_stage
from deeprecsys.zoo.schema import DenseInput, Per, Pooling, SparseInput
from tests.custom.models import Full

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.export's own

MODELS = "tests.custom.models"
MAX_ITEMS = 90


@pytest.fixture(scope="module")
def full() -> Full:
    torch.manual_seed(1)
    return Full().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def weights(full: Full, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "full.safetensors"
    save_file(full.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def described(weights: Path) -> Own:
    return describe(f"{MODELS}:Plain@{weights}")


once = functools.cache(describe)


def assembly(own: Own) -> tuple[Assembly, FeatureLayout]:
    """The model over tables filled from its weights, as a node has them."""
    layout = FeatureLayout.plan(own.schema, MAX_ITEMS, llc_bytes=1 << 12)
    buffer = bytearray(layout.size)
    layout.fill(buffer, seed=2)
    offsets = np.cumsum([0, *(t.bytes for t in own.schema.tables)]).tolist()
    fd = os.memfd_create("tables")
    os.ftruncate(fd, max(offsets[-1], 64))
    wanted = {
        t.name: (o, t.rows, t.dim, own.keys[t.name]) for t, o in zip(own.schema.tables, offsets, strict=False)
    }
    fill(own.name, fd, wanted)
    memory = mmap.mmap(fd, 0)
    os.close(fd)
    tables = {n: np.ndarray((rows, dim), np.float32, memory, o) for n, (o, rows, dim, _) in wanted.items()}
    return Assembly(own, tables, layout.views(buffer)), layout


def direct(module: nn.Module, about: Assembly, first: dict[str, int], items: int) -> np.ndarray:
    """The user's whole module on the same ids and features."""
    given = []
    for i in about.model.schema.inputs:
        rows = about.inputs[i.name][first[i.name] :][: items if i.per is Per.ITEM else 1]
        given.append(torch.from_numpy(rows.copy() if isinstance(i, DenseInput) else rows.astype(np.int64)))
    return module(*given).numpy()


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_a_class_scores_as_the_users_module_alone_and_beside_other_queries(
    engine: str, described: Own, full: Full
) -> None:
    about, layout = assembly(described)
    runs = build(engine, about)
    for cuts in ([(5, 1)], [(6, MAX_ITEMS)], [(5, 30), (8, 1), (9, 50)]):
        outs = [np.full((n, 2), np.nan, np.float32) for _, n in cuts]
        runs.score([SliceView(layout.rows_at(q), 0, n, o) for (q, n), o in zip(cuts, outs, strict=True)])
        for (q, n), got in zip(cuts, outs, strict=True):
            np.testing.assert_allclose(got, direct(full, about, layout.rows_at(q), n), atol=1e-5)


def test_what_is_found_out_of_a_class(described: Own) -> None:
    assert described.splittable
    assert described.dense_parameters == 18 * 16 + 16 + 16 * 2 + 2
    assert described.flops(Per.ITEM) == 2 * (18 * 16 + 16 * 2)
    assert described.keys == {"goods": "goods.weight", "user": "user.weight"}
    assert described.graph
    assert Own.unpack(described.pack() + b"what follows") == described
    assert described.scaled(1.0) == described
    with pytest.raises(InputError, match=r"has its own weights, got 0\.5"):
        described.scaled(0.5)


def test_without_weights_tables_can_be_scaled_and_the_dense_stage_is_the_same_each_time() -> None:
    own = describe(f"{MODELS}:Plain")
    assert own.scaled(2.0).schema.table("goods").rows == 100
    first, second = (dense_stage(own).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_stage_that_cannot_be_exported_runs_eagerly_and_compiled_says_why(weights: Path) -> None:
    own = describe(f"{MODELS}:NeverFits@{weights}")
    about, _ = assembly(own)
    build("eager", about)
    with pytest.raises(InputError, match=r"engine compiled: expected a dense stage that torch\.onnx"):
        build("compiled", about)


@pytest.mark.parametrize("name", ["Listwise", "ListwiseAlone"])
@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_a_listwise_model_is_found_out_and_its_queries_never_meet(name: str, engine: str) -> None:
    own = once(f"{MODELS}:{name}")
    assert not own.splittable
    layout = FeatureLayout.plan(own.schema, MAX_ITEMS, llc_bytes=1 << 12)
    buffer = bytearray(layout.size)
    layout.fill(buffer, seed=2)
    rng = np.random.default_rng(3)
    tables = {t.name: rng.standard_normal((t.rows, t.dim)).astype(np.float32) for t in own.schema.tables}
    runs = build(engine, Assembly(own, tables, layout.views(buffer)))
    outputs = own.schema.outputs
    alone, together = ([np.empty((n, outputs), np.float32) for n in (9, 4)] for _ in range(2))
    views = [
        [SliceView(layout.rows_at(q), 0, len(o), o) for q, o in enumerate(outs)] for outs in (alone, together)
    ]
    for view in views[0]:
        runs.score([view])
    runs.score(views[1])
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert np.std(alone[0]) > 1e-3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tests.custom.nowhere:Plain", "expected an importable module, got ModuleNotFoundError"),
        (f"{MODELS}:Plane", "expected a class 'Plane'"),
        (f"{MODELS}:NoOwnModel", "a class without arguments, got TypeError"),
        (f"{MODELS}:Other", "OwnModel, or a function that makes one, got the class Other"),
        (f"{MODELS}:number", "or a function that makes one, got a int"),
        (f"{MODELS}:WithArguments", "expected a class without arguments, got TypeError"),
        (f"{MODELS}:NoSchema", "expected an attribute `schema`"),
        (f"{MODELS}:NoModule", "dense_stage: expected a module, got a builtin"),
        (f"{MODELS}:WrongInputs", r"expected forward\(item\), got one with"),
        (f"{MODELS}:WrongOutputs", r"expected float32 scores \[3, 3\] .* got torch.float32 \[3, 2\]"),
        (f"{MODELS}:Random", "expected the same scores for the same input"),
        ("/nowhere.py:Plain", "expected a file, got /nowhere.py"),
        ("/nowhere.onnx", "expected a file, got /nowhere.onnx"),
        ("model.py", "expected package.module:Class"),
        (f"{MODELS}:Plain@/nowhere.pt", "--weights: expected a file"),
    ],
)  # fmt: skip
def test_a_class_that_cannot_be_served_is_refused_in_one_line(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as refusal:
        describe(name)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop("goods.weight"), "table 'goods': expected a key 'goods.weight', got dense"),
        (
            lambda w: w.update({"goods.weight": torch.zeros(50, 5)}),
            r"expected shape \[50, 4\], got \[50, 5\]",
        ),
        (lambda w: w.update({"user.weight": torch.zeros(20, 4, dtype=torch.int8)}), "floating-point numbers"),
        (lambda w: w.pop("dense.out.bias"), "dense stage: expected a key 'dense.out.bias'"),
        (lambda w: w.update({"dense.out.bias": torch.zeros(3)}), r"'dense.out.bias': expected shape \[2\]"),
        (
            lambda w: w["dense.out.bias"].copy_(torch.tensor([1.0, torch.inf])),
            "dense stage: 'dense.out.bias': expected finite numbers, got 1 that are infinite or NaN, of 2",
        ),
        (lambda w: w.update(more=torch.zeros(1)), "got also more"),
        (lambda w: w.update(more=Full()), "expected tensors and nothing else"),
        (lambda w: w.update(more="text"), "expected a state dict"),
    ],
)
def test_weights_that_are_not_the_models_are_refused(change, said: str, full: Full, tmp_path: Path) -> None:
    values = {key: value.clone() for key, value in full.state_dict().items()}
    change(values)
    torch.save(values, tmp_path / "w.pt")
    with pytest.raises(InputError, match=said) as refusal:
        describe(f"{MODELS}:Plain@{tmp_path / 'w.pt'}")
    assert str(refusal.value).startswith("--weights ")
    assert "\n" not in str(refusal.value)


def test_a_file_of_weights_of_another_kind_is_refused(tmp_path: Path) -> None:
    for name, said in (
        ("w.npz", "expected one of .safetensors"),
        ("w.safetensors", "expected a .safetensors file"),
    ):
        (tmp_path / name).write_text("no weights")
        with pytest.raises(InputError, match=said):
            describe(f"{MODELS}:Plain@{tmp_path / name}")


def test_only_own_models_take_weights(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    with pytest.raises(InputError, match="expected a model of your own"):
        with_weights("ncf", "w.pt")
    with pytest.raises(InputError, match="carries its own"):
        with_weights(str(tmp_path / "m.onnx"), "w.pt")
    assert with_weights("ncf", None) == "ncf"
    assert [is_own(n) for n in ("ncf", "wnd-artefact", "m.onnx", "a/m.pt2", "a.b:C", "m.py:C@w.pt")] == [
        False, False, True, True, True, True
    ]  # fmt: skip


def onnx_file(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[int | str]]],
    initialisers: dict[str, np.ndarray],
    outputs: tuple[str, ...] = ("y",),
    opset: int = 18,
) -> str:
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(n, kind, dims) for n, (kind, dims) in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(a, n) for n, a in initialisers.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return str(path)


IDS, FLOAT = TensorProto.INT64, TensorProto.FLOAT
TABLE = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
OTHER = np.random.default_rng(1).standard_normal((40, 4)).astype(np.float32)
GATHER = helper.make_node("Gather", ["t", "item"], ["rows"])
SUM = helper.make_node("ReduceSum", ["rows", "axes"], ["y"], keepdims=0)
AXIS1 = {"axes": np.array([1], np.int64)}


def test_look_ups_of_an_onnx_file_become_sparse_inputs_with_their_pooling(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["seen"], ["seen64"], to=IDS),
        helper.make_node("Gather", ["t", "seen64"], ["seen_rows"]),
        helper.make_node("ReduceMean", ["seen_rows", "axes"], ["history"], keepdims=0),
        helper.make_node("Gather", ["t", "item"], ["rows"]),
        helper.make_node("Gather", ["u", "item"], ["others"]),
        helper.make_node("Mul", ["rows", "history"], ["a"]),
        helper.make_node("Add", ["a", "others"], ["b"]),
        helper.make_node("ReduceSum", ["b", "axes"], ["y"], keepdims=0),
    ]
    inputs = {"seen": (TensorProto.INT32, [1, 5]), "item": (IDS, ["n"])}
    path = onnx_file(tmp_path / "m.onnx", nodes, inputs, {"t": TABLE, "u": OTHER, **AXIS1})
    own = describe(path)
    assert own.schema.inputs == (
        SparseInput("seen", "t", 5, Pooling.MEAN, Per.QUERY),
        SparseInput("item", "t"),
        SparseInput("item/1", "u"),
    )
    assert own.splittable
    assert own.schema.outputs == 1
    assert {i.name for i in onnx.load_from_string(own.graph).graph.initializer}.isdisjoint(own.keys)
    about, layout = assembly(own)
    np.testing.assert_array_equal(about.tables["t"], TABLE)
    first = layout.rows_at(3)
    about.inputs["item/1"][first["item/1"] :][:7] = about.inputs["item"][first["item"] :][:7]
    item, seen = about.inputs["item"][first["item"] :][:7, 0], about.inputs["seen"][first["seen"]]
    wanted = (TABLE[item] * TABLE[seen].mean(0) + OTHER[item]).sum(1, keepdims=True)
    for engine in ("eager", "compiled"):
        out = np.empty((7, 1), np.float32)
        build(engine, about).score([SliceView(first, 0, 7, out)])
        np.testing.assert_allclose(out, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "inputs", "initialisers", "said"),
    [
        ([GATHER, SUM], {"item": (IDS, [1])}, {"t": TABLE}, "expected one whose first dimension is symbolic"),
        ([GATHER, SUM], {"item": (IDS, [7])}, {"t": TABLE}, r"or 1 \(per query\), got 7"),
        (
            [GATHER, SUM],
            {"item": (IDS, ["n", "m"])},
            {"t": TABLE},
            r"expected ids \[n\] or \[n, look-ups\], got INT64 \[n, m\]",
        ),
        (
            [helper.make_node("ReduceSum", ["item", "axes"], ["y"])],
            {"item": (TensorProto.STRING, ["n", 2])},
            {},
            "input 'item': expected float32, float64, int64, int32 or bool, got STRING",
        ),
        (
            [helper.make_node("ReduceSum", ["item", "axes"], ["y"])],
            {"item": (FLOAT, ["n", "m"])},
            {},
            r"expected float32 \[n, width\]",
        ),
        (
            [GATHER, helper.make_node("Nonsense", ["rows"], ["y"])],
            {"item": (IDS, ["n"])},
            {"t": TABLE},
            "expected one that ONNX Runtime .* runs, got: .*Nonsense",
        ),
        (
            [GATHER, helper.make_node("ReduceSum", ["rows"], ["y"], keepdims=0)],
            {"item": (IDS, ["n"])},
            {"t": TABLE},
            "output: expected float32 scores",
        ),
    ],
)  # fmt: skip
def test_an_onnx_file_that_cannot_be_served_is_refused_in_one_line(
    nodes, inputs, initialisers, said: str, tmp_path: Path
) -> None:
    path = onnx_file(tmp_path / "m.onnx", nodes, inputs, initialisers | AXIS1)
    with pytest.raises(InputError, match=said) as refusal:
        describe(path)
    assert str(refusal.value).startswith(f"model {path}: ")
    assert "\n" not in str(refusal.value)


def test_an_operator_set_that_does_not_exist_yet_and_a_file_of_noise_are_refused(tmp_path: Path) -> None:
    item = {"item": (IDS, ["n"])}
    new = onnx_file(tmp_path / "new.onnx", [GATHER, SUM], item, {"t": TABLE, **AXIS1}, opset=99)
    (tmp_path / "noise.onnx").write_bytes(os.urandom(200))
    (tmp_path / "noise.pt2").write_bytes(os.urandom(200))
    for path, said in (
        (new, "expected one that ONNX Runtime .* got: .*99"),
        (str(tmp_path / "noise.onnx"), "expected an ONNX file"),
        (str(tmp_path / "noise.pt2"), "expected a torch.export archive"),
    ):
        with pytest.raises(InputError, match=said):
            describe(path)


def test_a_listwise_onnx_file_is_found_out(tmp_path: Path) -> None:
    nodes = [GATHER, helper.make_node("Softmax", ["rows"], ["soft"], axis=0), replace_output(SUM, "soft")]
    path = onnx_file(tmp_path / "m.onnx", nodes, {"item": (IDS, ["n"])}, {"t": TABLE, **AXIS1})
    assert not describe(path).splittable


def replace_output(node: onnx.NodeProto, reads: str) -> onnx.NodeProto:
    made = onnx.NodeProto()
    made.CopyFrom(node)
    made.input[0] = reads
    return made


def test_nothing_pickled_in_an_archive_is_loaded(full: Full, tmp_path: Path) -> None:
    import zipfile

    ids = (torch.zeros(1, 3, dtype=torch.int64), torch.zeros(5, 2, dtype=torch.int64))
    n = torch.export.Dim("n")
    program = torch.export.export(
        full,
        (*ids, torch.zeros(1, dtype=torch.int64), torch.zeros(5, 2)),
        dynamic_shapes=({}, {0: n}, {}, {0: n}),
    )
    torch.export.save(program, tmp_path / "good.pt2")
    assert describe(str(tmp_path / "good.pt2")).splittable
    with zipfile.ZipFile(tmp_path / "good.pt2") as good, zipfile.ZipFile(tmp_path / "bad.pt2", "w") as bad:
        for name in good.namelist():
            data = good.read(name)
            if name.endswith("weights_config.json"):
                data = data.replace(b'"use_pickle": false', b'"use_pickle": true', 1)
            bad.writestr(name, data)
    with pytest.raises(InputError, match=r"expected plain tensors, got 'goods\.weight' pickled"):
        describe(str(tmp_path / "bad.pt2"))


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_a_class_with_rows_of_different_lengths_scores_them_pooled(engine: str) -> None:
    own = once(f"{MODELS}:OfLengths")
    assert Own.unpack(own.pack()).full == own.full
    layout = FeatureLayout.plan(own.schema, MAX_ITEMS, llc_bytes=1 << 12)
    buffer = bytearray(layout.size)
    layout.fill(buffer, seed=2)
    rng = np.random.default_rng(3)
    tables = {t.name: rng.standard_normal((t.rows, t.dim)).astype(np.float32) for t in own.schema.tables}
    about = Assembly(own, tables, layout.views(buffer))
    runs, dense = build(engine, about), dense_stage(own)
    for cuts in ([(5, 0, 1)], [(6, 3, MAX_ITEMS)], [(5, 0, 30), (8, 0, 1), (9, 7, 50)]):
        outs = [np.full((stop - start, 1), np.nan, np.float32) for _, start, stop in cuts]
        slices = zip(cuts, outs, strict=True)
        runs.score([SliceView(layout.rows_at(q), start, stop, o) for (q, start, stop), o in slices])
        for (q, start, stop), got in zip(cuts, outs, strict=True):
            want = dense(pooled(about, layout.rows_at(q), start, stop), None)
            np.testing.assert_allclose(got, want.detach().numpy(), atol=1e-5)


def pooled(about: Assembly, first: dict[str, int], start: int, stop: int) -> dict[str, torch.Tensor]:
    """What the dense stage reads of some items, one bag after the other."""
    found = {}
    for i in about.model.schema.inputs:
        rows, at = about.inputs[i.name], first[i.name]
        some = range(at + start, at + stop) if i.per is Per.ITEM else range(at, at + 1)
        if not isinstance(rows, Ids):
            found[i.name] = torch.from_numpy(rows[some.start : some.stop].copy())
            continue
        assert isinstance(i, SparseInput)
        bags = []
        for bag in (rows.rows(r, r + 1) for r in some):
            vectors = about.tables[i.table][bag.values]
            vectors = vectors if bag.weights is None else vectors * bag.weights[:, None]
            if i.pooling is Pooling.SEQUENCE:
                bags.append(np.concatenate([vectors, np.zeros((i.lookups - len(vectors), 8), np.float32)]))
            else:
                by = max(len(vectors), 1) if i.pooling is Pooling.MEAN else 1
                bags.append(vectors.sum(axis=0) / by)
        found[i.name] = torch.from_numpy(np.stack(bags).astype(np.float32))
    return found

"""Code of users' own that ends the process, and models that cannot be measured: the cause is reported."""

from __future__ import annotations

import time
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from deeprecsys.zoo.custom import own_model
from deeprecsys.zoo.schema import Schema
from tests.cli.conftest import Refused, call, refused, write_profile
from tests.files import hostile, hostile_engines

__all__ = ["refused"]
TABLE = "table 't' rows: expected a whole number from 1 to 2147483647, got -5"
FILE, ENGINES = Path(hostile.__file__), Path(hostile_engines.__file__)
TARGET = ["--rate", "20", "--duration", "2", "--sla-ms", "100", "--workers", "1"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ExitsInInit", "expected a class without arguments, got SystemExit: 0"),
        ("EndsInInit", "cannot be loaded: no message (its process ended with exit status 3)"),
        ("ExitsInStage", "dense_stage: expected a module, got SystemExit: no stage today"),
        ("ExitsInForward", "dense stage: expected scores for 3 items, got SystemExit: 5"),
        ("EndsInForward", "cannot be loaded: no message (its process ended with exit status 0)"),
    ],
)
def test_a_model_whose_code_ends_its_process_is_refused(name: str, says: str, refused: Refused) -> None:
    assert says in refused("bench", f"{FILE}:{name}", *TARGET)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("raise SystemExit(0)", "expected an importable module, got SystemExit: 0"),
        ("import os; os._exit(0)", "its process ended with exit status 0"),
        ("import os; os.abort()", "ended by signal 6"),
        ("from deeprecsys.zoo.schema import Table; Table('t', -5, 4)", TABLE),
    ],
)
def test_a_module_that_ends_the_process_when_it_is_imported_is_refused(
    text: str, says: str, tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / "m.py").write_text(text)
    assert says in refused("bench", f"{tmp_path}/m.py:Model", *TARGET)


@pytest.mark.parametrize("kind", ["--policy", "--sizes"])
def test_a_plugin_that_exits_when_it_is_imported_is_refused(
    kind: str, tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / "p.py").write_text("raise SystemExit(0)")
    profile = str(write_profile(tmp_path / "p.json", 1e-3, 1e-5))
    said = refused("simulate", "--profile", profile, kind, f"{tmp_path}/p.py:Thing", "--rate", "10")
    assert "SystemExit: 0" in said


@pytest.mark.parametrize(
    ("name", "says"), [("Failing", "RuntimeError: no place today"), ("Exiting", "SystemExit: 0")]
)
def test_a_policy_that_fails_is_named_with_its_line(
    name: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = str(write_profile(tmp_path / "p.json", 1e-3, 1e-5))
    assert call("simulate", "--profile", profile, "--policy", f"{FILE}:{name}", "--rate", "10") == 1
    said = capsys.readouterr()
    assert f"{FILE}, line " in said.err
    assert says in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("make", "says"),
    [
        ("Table('t', -5, 4)", "table 't' rows: expected a whole number from 1 to 2147483647, got -5"),
        ("Table('t', 2**31, 4)", "table 't' rows: expected a whole number"),
        ("Table('t', 5, 0)", "table 't' dim: expected a whole number from 1"),
        ("Table('t', 5.0, 4)", "table 't' rows: expected a whole number from 1 to 2147483647, got 5.0"),
        ("Table(3, 5, 4)", "table name: expected a text, got 3"),
        ("SparseInput('i', 't', 0)", "input 'i' lookups: expected a whole number from 1 to 16777216, got 0"),
        ("SparseInput('i', 't', pooling='total')", "input 'i' pooling: expected one of Pooling.SUM"),
        ("SparseInput('i', 't', per='person')", "input 'i' per: expected one of Per.ITEM, Per.QUERY"),
        ("DenseInput('d', 0)", "input 'd' width: expected a whole number from 1"),
        ("DenseInput('d', 10**12)", "input 'd' width: expected a whole number from 1"),
        ("DenseInput('d', 3, ids=((3, 10),))", "input 'd' ids: column: expected a whole number from 0 to 2"),
        ("DenseInput('d', 3, ids=((0, 0),))", "input 'd' ids: how many: expected a whole number from 1"),
        ("Schema((), (DenseInput('d', 1),), outputs=0)", "schema outputs: expected a whole number from 1"),
        (
            "Schema((Table('t', 9, 10**6),), (SparseInput('i', 't', 10**6, Pooling.CONCAT),))",
            "input 'i': numbers of one row: expected a whole number from 1",
        ),
    ],
)  # fmt: skip
def test_a_schema_of_impossible_numbers_is_refused(make: str, says: str) -> None:
    import deeprecsys.zoo.schema as names

    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the text is what is tested
        eval(make, vars(names))
    assert says in str(refusal.value)


def with_ids_in_columns(folder: Path, rows: int = 30) -> Path:
    """An ONNX file of `hostile.Columns`' kind: columns 2 and 3 of its input index tables."""

    def ints(name: str, *values: int) -> onnx.TensorProto:
        return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)

    def floats(name: str, *shape: int) -> onnx.TensorProto:
        count = int(torch.tensor(shape).prod())
        return helper.make_tensor(name, TensorProto.FLOAT, shape, [0.01 * k for k in range(count)])

    initialisers = [
        *(ints(f"at{k}", k) for k in range(5)), ints("one", 1), ints("pair", 3),
        floats("shops", rows, 4), floats("brands", 7, 4), floats("w", 10, 1),
    ]  # fmt: skip
    nodes = [
        helper.make_node("Slice", ["x", "at0", "at2", "one"], ["numbers"]),
        helper.make_node("Slice", ["x", "at2", "pair", "one"], ["a"]),
        helper.make_node("Cast", ["a"], ["a_int"], to=TensorProto.INT64),
        helper.make_node("Squeeze", ["a_int", "one"], ["a_id"]),
        helper.make_node("Gather", ["shops", "a_id"], ["shop"]),
        helper.make_node("Gather", ["x", "pair"], ["b"], axis=1),
        helper.make_node("Cast", ["b"], ["b_int"], to=TensorProto.INT64),
        helper.make_node("Squeeze", ["b_int", "one"], ["b_id"]),
        helper.make_node("Gather", ["brands", "b_id"], ["brand"]),
        helper.make_node("Concat", ["numbers", "shop", "brand"], ["all"], axis=1),
        helper.make_node("MatMul", ["all", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])], initialisers,
    )  # fmt: skip
    file = folder / "columns.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)
    return file


def schema_of(name: str) -> Schema:
    return own_model(name).schema


def test_columns_of_ids_are_found_in_a_graph(tmp_path: Path) -> None:
    """And so are filled with ids of their tables, not with normal numbers."""
    (found,) = schema_of(str(with_ids_in_columns(tmp_path))).dense
    assert found.ids == ((2, 30), (3, 7))


def test_columns_of_ids_are_found_in_an_exported_program(tmp_path: Path) -> None:
    program = torch.export.export(
        hostile.Columns().eval(), (torch.ones(5, 4),), dynamic_shapes=({0: torch.export.Dim("n")},)
    )
    torch.export.save(program, tmp_path / "columns.pt2")
    (found,) = schema_of(f"{tmp_path}/columns.pt2").dense
    assert found.ids == ((2, 30), (3, 7))


def test_a_class_states_its_columns_of_ids(refused: Refused) -> None:
    assert schema_of(f"{FILE}:Stated").dense[0].ids == ((2, 30), (3, 7))
    said = refused("bench", f"{FILE}:Unstated", *TARGET)
    assert "IndexError: index out of range in self; values are standard normal" in said


@pytest.mark.live
@pytest.mark.parametrize("form", ["onnx", "class"])
def test_measuring_fills_columns_of_ids_with_ids(form: str, tmp_path: Path) -> None:
    name = f"{FILE}:Stated" if form == "class" else str(with_ids_in_columns(tmp_path))
    assert call("bench", name, *TARGET) == 0


@pytest.mark.live
@pytest.mark.parametrize(
    ("engine", "status", "says"),
    [
        ("ExitingEngine", 1, "SystemExit: no engine today"),
        ("EndingEngine", 1, "cannot start"),
        ("FailingEngine", 1, "queries failed, the first: query 0: SystemExit: no scores today"),
        ("DyingEngine", 1, "queries failed, the first: query 0: "),
    ],
)
def test_an_engine_that_fails_ends_the_measurement_with_its_cause(
    engine: str, status: int, says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    args = ["--rows-scale", "0.001", "--engine", f"{ENGINES}:{engine}", *TARGET]
    assert call("bench", "ncf", *args) == status
    assert time.monotonic() - began < 60
    assert says in capfd.readouterr().err.splitlines()[-1]


@pytest.mark.live
@pytest.mark.parametrize("command", ["bench", "profile"])
def test_a_model_that_ends_its_worker_while_it_is_measured_is_reported(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    flag = tmp_path / "now"
    monkeypatch.setenv("DEEPRECSYS_TEST_END", str(flag))
    name = f"{FILE}:EndsWhileMeasuring"
    own_model(name)
    flag.touch()
    args = TARGET if command == "bench" else ["--workers", "1", "--budget", "2"]
    began = time.monotonic()
    assert call(command, name, "--engine", "eager", *args) == 1
    assert time.monotonic() - began < 60
    assert "deeprecsys: " in capfd.readouterr().err.splitlines()[-1]

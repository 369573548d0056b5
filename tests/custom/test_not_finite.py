"""Weights that are not finite are refused, by the name of the tensor and the number of values."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper
from safetensors.torch import save_file

from deeprecsys.core.errors import InputError
from deeprecsys.node.runtime.layout import ModelLayout, QueryArena
from deeprecsys.node.runtime.tables import Weights, load_tables
from deeprecsys.zoo.custom.describe import describe
from deeprecsys.zoo.custom.prepare import own_model
from deeprecsys.zoo.rows import RowFormat, not_finite
from tests.custom.models import Full
from tests.custom.test_describe import AXIS1, GATHER, IDS, MODELS, SUM, TABLE, onnx_file, replace_output


def load(name: str, weights: Weights = Weights(), rows: str = "fp32", scale: float = 1.0) -> None:  # noqa: B008
    load_tables(name, scale, rows, weights, lambda _what, _share: None).close()


@pytest.mark.parametrize("rows", list(RowFormat))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_tables_that_a_program_writes(value: float, rows: str) -> None:
    def fill(tables):
        for table in tables.values():
            table[...] = 1e38  # whose sum is not finite, but they are
        tables[name][[5, 700], [0, 9]] = value

    plan = ModelLayout("dlrm-rmc1", 1e-3, rows, QueryArena(16, 1))
    name = plan.schema().tables[3].name
    with pytest.raises(InputError) as refusal:
        load("dlrm-rmc1", Weights(fill=fill), rows, 1e-3)
    of = plan.schema().table(name)
    assert str(refusal.value) == (
        f"weights of dlrm-rmc1: table {name!r}: expected finite numbers, got 2 that are infinite or NaN, "
        f"of {of.rows * of.dim}"
    )


def test_counting_copies_nothing() -> None:
    values = np.ones((1 << 20, 8), np.float32)
    values[::2, 3] = np.nan
    values[7] = [3e38, 3e38, np.inf, -np.inf, 0, 0, 0, 0]
    tracemalloc.start()
    assert not_finite(values) == (1 << 19) + 2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes / 16


def test_a_table_of_a_file(tmp_path: Path) -> None:
    values = {key: value.clone() for key, value in Full().state_dict().items()}
    values["goods.weight"][3:5, 1] = torch.nan
    save_file(values, tmp_path / "w.safetensors")
    name = f"{MODELS}:Plain@{tmp_path / 'w.safetensors'}"
    with pytest.raises(InputError) as refusal:
        load(name)
    assert str(refusal.value) == (
        f"weights of {name}: table 'goods': expected finite numbers, got 2 that are infinite or NaN, of 200"
    )


def test_a_table_of_an_onnx_file(tmp_path: Path) -> None:
    table = TABLE.copy()
    table[3] = np.inf
    path = onnx_file(tmp_path / "m.onnx", [GATHER, SUM], {"item": (IDS, ["n"])}, {"t": table, **AXIS1})
    own_model(path)
    with pytest.raises(InputError, match=r"table 't': expected finite numbers, got 4 that are .+, of 160$"):
        load(path)


def test_a_dense_stage_of_an_onnx_file_may_have_infinite_constants_but_no_nan(tmp_path: Path) -> None:
    nodes = [GATHER, helper.make_node("Max", ["rows", "low"], ["z"]), replace_output(SUM, "z")]
    item = {"item": (IDS, ["n"])}
    low = np.full(4, -np.inf, np.float32)
    assert describe(onnx_file(tmp_path / "m.onnx", nodes, item, {"t": TABLE, "low": low, **AXIS1})).splittable
    low[2] = np.nan
    path = onnx_file(tmp_path / "n.onnx", nodes, item, {"t": TABLE, "low": low, **AXIS1})
    with pytest.raises(InputError) as refusal:
        describe(path)
    assert str(refusal.value) == (
        f"model {path}: dense stage: 'low': expected finite numbers, got 1 that are infinite or NaN, of 4"
    )


@pytest.mark.parametrize("key", ["dense.hidden.weight", "user.weight"])
def test_an_exported_program(key: str, tmp_path: Path) -> None:
    full = Full().eval().requires_grad_(False)
    full.state_dict()[key][2, 1] = torch.inf
    ids, one, n = (
        torch.zeros(1, 3, dtype=torch.int64),
        torch.zeros(1, dtype=torch.int64),
        torch.export.Dim("n"),
    )
    inputs = ids, torch.zeros(5, 2, dtype=torch.int64), one, torch.zeros(5, 2)
    path = str(tmp_path / "m.pt2")
    torch.export.save(torch.export.export(full, inputs, dynamic_shapes=({}, {0: n}, {}, {0: n})), path)
    with pytest.raises(InputError) as refusal:
        describe(path)
    assert str(refusal.value).startswith(
        f"model {path}: weights: {key!r}: expected finite numbers, got 1 that are infinite or NaN, of "
    )

"""The fused gather without a device: its code under Triton's interpreter, and the machine code made of it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

if torch.cuda.is_available():
    pytest.skip("a CUDA device runs the kernel itself", allow_module_level=True)
pytest.importorskip("triton", reason="Triton's compiler and interpreter are not installed")

from deeprecsys.engine.cuda import programs
from deeprecsys.engine.cuda.engine import DeviceEngine
from deeprecsys.engine.cuda.layout import DeviceBlock, blocks_of
from deeprecsys.engine.cuda.tables import DeviceTables
from deeprecsys.zoo import MODELS
from deeprecsys.zoo.schema import Pooling, Schema, SparseInput, Table
from tests.engine.cuda.conftest import assembly, expected, slices_of

SOURCE = Path(programs.__file__).with_name("kernel.py")
NUMBER = count()


def load(file: Path = SOURCE) -> ModuleType:
    """The kernel's module of a file."""
    spec = importlib.util.spec_from_file_location(f"kernel_{next(NUMBER)}", file)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def interpreted() -> ModuleType:
    return load()


def block_of(
    lookups: int, dim: int, pooling: Pooling, rows: tuple[int, ...] = (7, 50, 3)
) -> tuple[DeviceBlock, Schema]:
    """One block of inputs over tables of different lengths, so that a wrong offset reads another's row."""
    tables = tuple(Table(f"t{k}", n, dim) for k, n in enumerate(rows))
    inputs = tuple(SparseInput(f"x{k}", t.name, lookups, pooling) for k, t in enumerate(tables))
    schema = Schema(tables, inputs, outputs=1)
    (block,) = blocks_of(schema)
    return block, schema


def tables_of(schema: Schema, dtype: torch.dtype) -> tuple[DeviceTables, dict[str, np.ndarray]]:
    rng = np.random.default_rng(5)
    values = {t.name: rng.standard_normal((t.rows, t.dim)).astype(np.float32) for t in schema.tables}
    return DeviceTables(schema, values, torch.device("cpu"), dtype, None), values


def ids_of(schema: Schema, batch: int) -> torch.Tensor:
    rng = np.random.default_rng(batch)
    shape = (batch, schema.sparse[0].lookups)
    drawn = [rng.integers(0, schema.table(i.table).rows, shape) for i in schema.sparse]
    return torch.tensor(np.stack(drawn), dtype=torch.int32)


def reference(
    block: DeviceBlock, values: dict[str, np.ndarray], ids: torch.Tensor, dtype: torch.dtype
) -> np.ndarray:
    """Pooled in double precision from rows as they are kept."""
    kept = {n: torch.from_numpy(v).to(dtype).double().numpy() for n, v in values.items()}
    rows = np.stack([kept[t][ids[k].numpy()] for k, t in enumerate(block.tables)])
    if not block.pooled:
        return rows
    return rows.mean(axis=2) if block.pooling is Pooling.MEAN else rows.sum(axis=2)


def gathered(
    module: ModuleType, block: DeviceBlock, tables: DeviceTables, ids: torch.Tensor
) -> tuple[np.ndarray, int]:
    """What the kernel gathers, and its flag."""
    flag = torch.zeros(1, dtype=torch.int32)
    out = module.FusedGather(block, tables)(ids, flag, torch.float32)
    return out.numpy(), int(flag)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("pooling", [Pooling.SUM, Pooling.MEAN, Pooling.SEQUENCE])
@pytest.mark.parametrize(("lookups", "dim"), [(1, 32), (5, 10), (32, 8), (33, 64), (80, 32)])
def test_sums_are_those_of_double_precision(
    interpreted: ModuleType, dtype: torch.dtype, pooling: Pooling, lookups: int, dim: int
) -> None:
    block, schema = block_of(lookups, dim, pooling)
    tables, values = tables_of(schema, dtype)
    ids = ids_of(schema, 2)
    out, flag = gathered(interpreted, block, tables, ids)
    np.testing.assert_allclose(out, reference(block, values, ids, dtype), rtol=1e-6, atol=2e-5)
    assert flag == 0


@pytest.mark.parametrize("batch", [1, 2, 31, 257, 1000])
def test_every_batch_size(interpreted: ModuleType, batch: int) -> None:
    block, schema = block_of(2, 4, Pooling.SUM, rows=(300,))
    tables, values = tables_of(schema, torch.float32)
    ids = ids_of(schema, batch)
    out, _ = gathered(interpreted, block, tables, ids)
    np.testing.assert_allclose(out, reference(block, values, ids, torch.float32), atol=1e-5)


@pytest.mark.parametrize("bad", [-1, 50, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("where", [0, 32, 39])
def test_an_id_outside_its_table_is_found_and_spoils_only_its_bag(
    interpreted: ModuleType, bad: int, where: int
) -> None:
    block, schema = block_of(40, 8, Pooling.SUM)
    tables, values = tables_of(schema, torch.float32)
    ids = ids_of(schema, 4)
    good = reference(block, values, ids, torch.float32)
    ids[1, 2, where] = bad
    out, flag = gathered(interpreted, block, tables, ids)
    assert flag == 1
    good[1, 2] = out[1, 2]
    np.testing.assert_allclose(out, good, atol=1e-5)


MUTANTS = {
    "the first table's offset for all": ("tl.load(first + which)", "tl.load(first)"),
    "another table's last row": ("tl.load(last + which)", "tl.load(last)"),
    "a mask without the last look-up": ("start + step < lookups", "start + step < lookups - 1"),
    "a mask with one look-up too many": ("start + step < lookups", "start + step <= lookups"),
    "a step that leaves look-ups out": ("range(0, lookups, at_once)", "range(0, lookups - 1, at_once)"),
    "no mean": ("(total * scale)", "total"),
    "rows from their ends": ("* dim + column[None, :]", "* dim + dim - 1 - column[None, :]"),
    "ids of another bag": ("ids + program * lookups", "ids + which * lookups"),
    "a flag that is never set": ("mask=bad > 0", "mask=bad > 1"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_of_the_kernel_is_caught(name: str, tmp_path: Path) -> None:
    old, new = MUTANTS[name]
    text = SOURCE.read_text()
    assert text.count(old) == 1
    file = tmp_path / "mutant.py"
    file.write_text(text.replace(old, new))
    mutant = load(file)
    block, schema = block_of(33, 10, Pooling.MEAN)
    tables, values = tables_of(schema, torch.float32)
    ids = ids_of(schema, 3)
    out, _ = gathered(mutant, block, tables, ids)
    wrong = not np.allclose(out, reference(block, values, ids, torch.float32), atol=1e-5)
    ids[1, 2, 0] = 50
    unseen = gathered(mutant, block, tables, ids)[1] != 1
    assert wrong or unseen


@pytest.mark.parametrize("name", [n for n in MODELS if not n.endswith(("-artefact", "-jagged"))])
def test_the_engine_scores_by_the_kernel_as_the_reference_does(
    name: str, interpreted: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "gather_of", interpreted.FusedGather)
    a = assembly(name)
    engine = DeviceEngine(a, "cpu", precision="fp32", largest=4)
    slices = slices_of(a, [(0, 3), (3, 4), (7, 9)])
    engine.score(slices)
    for s, y in zip(slices, expected(a, slices), strict=True):
        np.testing.assert_allclose(s.out, y, atol=1e-5, rtol=1e-4)


REGISTERS = 64
"""Of a thread: with them a multiprocessor still holds half of the threads that it can."""
SHARED_BYTES = 4096
"""Of a program: the sums over warps alone."""


@pytest.mark.parametrize("capability", [80, 90])
def test_machine_code_spills_nothing_and_loads_wide(capability: int) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-m", "tests.engine.cuda.machine_code", str(capability)],
                          stdout=subprocess.PIPE, check=True, env=environment, timeout=250)  # fmt: skip
    found = json.loads(done.stdout)
    assert {(f["dim"], f["lookups"]) for f in found} >= {(32, 80), (64, 120), (64, 1)}
    for code in found:
        assert code["cubin_bytes"] > 0
        assert code["spilled_bytes"] == 0, code
        assert code["registers"] <= REGISTERS, code
        assert code["shared_bytes"] <= SHARED_BYTES, code
        assert code["load_bits"] >= code["share_bits"], code

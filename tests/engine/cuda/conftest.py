"""A small assembly of any model, and slices into it."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from deeprecsys.engine import Assembly, SliceView
from deeprecsys.engine.eager import EagerEngine
from deeprecsys.zoo import model
from deeprecsys.zoo.schema import SparseInput

ROWS = 600


@cache
def assembly(name: str, scale: float = 1e-4) -> Assembly:
    """Tables, inputs and weights drawn once; inputs of `ROWS` rows each."""
    chosen = model(name).scaled(scale)
    rng = np.random.default_rng(0)
    tables = {t.name: rng.uniform(-1, 1, (t.rows, t.dim)).astype(np.float32) for t in chosen.schema.tables}
    inputs = {}
    for i in chosen.schema.inputs:
        if isinstance(i, SparseInput):
            rows = chosen.schema.table(i.table).rows
            inputs[i.name] = rng.integers(0, rows, (ROWS, i.lookups), dtype=np.int32)
        else:
            inputs[i.name] = rng.standard_normal((ROWS, i.width), dtype=np.float32)
    return Assembly(chosen, tables, inputs, seed=3)


def slices_of(a: Assembly, spans: list[tuple[int, int]], seed: int = 0) -> list[SliceView]:
    """Slices of the given (start, stop), each of another query."""
    rng = np.random.default_rng(seed)
    names = [i.name for i in a.model.schema.inputs]
    outputs = a.model.schema.outputs
    return [
        SliceView(
            {n: int(rng.integers(0, ROWS - stop)) for n in names},
            start,
            stop,
            np.full((stop - start, outputs), np.nan, np.float32),
        )
        for start, stop in spans
    ]


def expected(a: Assembly, slices: list[SliceView]) -> list[np.ndarray]:
    """Each slice's scores, alone, by the reference engine."""
    engine = EagerEngine(a)
    found = []
    for s in slices:
        out = np.empty_like(s.out)
        engine.score([s._replace(out=out)])
        found.append(out)
    return found


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """The CPU, and a GPU where there is one."""
    if request.param == "cuda":
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device: none is here")
    return str(request.param)

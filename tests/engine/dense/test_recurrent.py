"""Our recurrent steps against the same in float64, and when they take the place of a library's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deeprecsys.core.errors import InputError
from deeprecsys.engine.dense import build
from deeprecsys.engine.dense.interest import DienStage, interest_stage
from deeprecsys.engine.dense.recurrent import BLOCK, Gates, Recurrence, lanes, padded
from deeprecsys.zoo.interest import DIEN
from deeprecsys.zoo.ncf import NCF
from tests.engine.dense.harness import network, small

HIDDEN, INPUTS, STEPS = 16, 12, 5


def gates(scale: float = 1.0) -> Gates:
    rng = np.random.default_rng(4)
    shapes = ((INPUTS, 3 * HIDDEN), (HIDDEN, 3 * HIDDEN), (3 * HIDDEN,), (3 * HIDDEN,))
    return Gates(*(scale * rng.standard_normal(s, np.float32) for s in shapes))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def states(g: Gates, x: np.ndarray, sequence_of_row: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    """[rows, steps, hidden] in float64, gate by gate."""
    w, u, b, b_ = (np.float64(m) for m in g)
    state, found = np.zeros((len(sequence_of_row), HIDDEN)), []
    for t in range(STEPS):
        inside, own = (
            (x[sequence_of_row, t] @ w + b).reshape(-1, 3, HIDDEN),
            (state @ u + b_).reshape(-1, 3, HIDDEN),
        )
        r, update = (sigmoid(inside[:, k] + own[:, k]) for k in range(2))
        new = np.tanh(inside[:, 2] + r * own[:, 2])
        state = state + amounts[:, t, None] * update * (new - state)
        found.append(state)
    return np.stack(found, axis=1)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(("rows", "sequences"), [(1, 1), (BLOCK - 1, 4), (2 * BLOCK + 5, 8)])
@pytest.mark.parametrize("scale", [1.0, 100.0])  # gates wide open or shut: nothing overflows
def test_states_are_those_of_the_formula(rows: int, sequences: int, keep: bool, scale: float) -> None:
    g, rng = gates(scale), np.random.default_rng(rows)
    x = rng.uniform(-1, 1, (padded(sequences), STEPS, INPUTS)).astype(np.float32)
    sequence_of_row = np.zeros(padded(rows), np.int64)
    sequence_of_row[:rows] = np.sort(rng.integers(0, sequences, rows))
    amounts = rng.uniform(0, 1, (padded(rows), STEPS)).astype(np.float32)
    layer = Recurrence(g, STEPS, keep)
    projected = np.full((padded(sequences) * STEPS, 3 * HIDDEN), np.nan, np.float32)
    layer.project(x.reshape(-1, INPUTS), projected)
    out = np.full((padded(rows), *([STEPS] if keep else []), HIDDEN), np.nan, np.float32)
    layer.run(projected, sequence_of_row, amounts, out)
    wanted = states(g, np.float64(x), sequence_of_row, np.float64(amounts))[:rows]
    error = np.abs(out[:rows] - (wanted if keep else wanted[:, -1]))
    assert error.max() <= 2e-6 * scale


def test_a_number_that_is_none_stays_none() -> None:
    x = np.zeros((padded(1), STEPS, INPUTS), np.float32)
    x[0, 1, 3] = np.nan
    layer = Recurrence(gates(), STEPS, keep=True)
    projected = np.empty((padded(1) * STEPS, 3 * HIDDEN), np.float32)
    layer.project(x.reshape(-1, INPUTS), projected)
    out = np.empty((padded(1), STEPS, HIDDEN), np.float32)
    layer.run(projected, np.arange(padded(1)), np.ones((padded(1), STEPS), np.float32), out)
    assert np.isfinite(out[0, 0]).all()
    assert np.isnan(out[0, 1:]).all()
    assert np.isfinite(out[1:]).all()


def test_states_that_are_no_whole_vectors_are_refused() -> None:
    rng = np.random.default_rng(0)
    odd = Gates(*(rng.standard_normal(s, np.float32) for s in ((4, 9), (3, 9), (9,), (9,))))
    with pytest.raises(ValueError, match=f"hidden: expected a multiple of {lanes()}, got 3"):
        Recurrence(odd, STEPS, keep=True)


def test_our_steps_are_taken_where_they_fit() -> None:
    assert interest_stage(DIEN, threads=1) is DienStage
    assert interest_stage(DIEN, threads=2) is None
    assert interest_stage(NCF, threads=1) is None
    assert interest_stage(replace(DIEN, hidden=60), threads=1) is None
    assert interest_stage(replace(DIEN, behaviours=39), threads=1) is None
    assert isinstance(build("onnxruntime", small("dien"), network("dien")), DienStage)
    with pytest.raises(InputError, match="precision of dense route onnxruntime: expected fp32, got bf16"):
        build("onnxruntime", small("dien"), network("dien"), precision="bf16")

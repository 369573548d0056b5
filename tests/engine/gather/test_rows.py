"""Row formats: rounding, room, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deeprecsys.core.errors import InputError
from deeprecsys.engine.gather import RowFormat, convert
from deeprecsys.zoo.rows import columns, dtype, row_bytes
from deeprecsys.zoo.schema import Table
from tests.engine.rows import restore

FLOATS = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 9)))


@given(FLOATS)
def test_bf16_rounds_as_torch_does(values: np.ndarray) -> None:
    got = restore(Table("t", *values.shape), convert(values, RowFormat.BF16))
    np.testing.assert_array_equal(got, torch.from_numpy(values).bfloat16().float().numpy())


@given(hnp.arrays(np.float32, (4, 7), elements=st.floats(-1e6, 1e6, width=32)))
def test_int8_is_within_half_a_step(values: np.ndarray) -> None:
    got = restore(Table("t", 4, 7), convert(values, RowFormat.INT8))
    low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    step = (high.astype(np.float64) - low) / 255
    assert (np.abs(got - values) <= 0.5 * step + 1e-6 * np.maximum(abs(low), abs(high)) + 1e-37).all()


def test_a_row_of_equal_values_is_exact_at_int8() -> None:
    values = np.repeat(np.float32([[0.0], [3.25], [-1e-30], [1e30]]), 5, axis=1)
    np.testing.assert_array_equal(restore(Table("t", 4, 5), convert(values, RowFormat.INT8)), values)


@pytest.mark.parametrize("form", RowFormat)
def test_tables_larger_than_a_chunk_convert_as_their_pieces_do(form: RowFormat) -> None:
    values = np.random.default_rng(0).standard_normal((3000, 200), np.float32)
    out = np.zeros((3000, columns(form, 200)), dtype(form))
    assert convert(values, form, out) is out
    assert out.strides[0] == row_bytes(form, 200)
    for first in (0, 1310, 2999):
        np.testing.assert_array_equal(out[first : first + 1], convert(values[first : first + 1], form))


def test_what_cannot_be_converted_is_refused() -> None:
    values = np.zeros((3, 4), np.float32)
    values[2, 1] = np.inf
    with pytest.raises(InputError, match="row 2: expected finite values for int8 rows"):
        convert(values, RowFormat.INT8)
    with pytest.raises(InputError, match=r"out: expected uint16 \[3, 4\], got float32 \[3, 4\]"):
        convert(values, RowFormat.BF16, np.zeros((3, 4), np.float32))
    with pytest.raises(InputError, match=r"table: expected float32 \[rows, dim\], got float64 \[2\]"):
        convert(np.zeros(2), RowFormat.BF16)

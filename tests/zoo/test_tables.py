"""Filling tables: uniform, seeded, and the same with any number of threads."""

import numpy as np
import pytest

from deeprecsys.zoo.rows import RowFormat, columns, convert, dtype
from deeprecsys.zoo.schema import Table
from deeprecsys.zoo.tables import CHUNK, fill, fill_rows


def filled(shape: tuple[int, ...], seed, threads: int | None = None) -> np.ndarray:
    table = np.full(shape, np.nan, dtype=np.float32)
    fill(table, seed, threads)
    return table


@pytest.mark.parametrize("shape", [(3, 4), (CHUNK // 32, 32), (3 * CHUNK // 32 + 5, 32), (CHUNK + 1, 1)])
def test_the_number_of_threads_does_not_show(shape):
    one = filled(shape, seed=1, threads=1)
    assert np.isfinite(one).all()
    for threads in (2, 5, None):
        np.testing.assert_array_equal(filled(shape, seed=1, threads=threads), one)


def test_values_are_uniform_between_minus_one_and_one():
    x = np.sort(filled((CHUNK * 2 // 32, 32), seed=1).ravel())
    assert x[0] >= -1
    assert x[-1] < 1
    uniform = (x.astype(np.float64) + 1) / 2
    distance = np.abs(uniform - (np.arange(x.size) + 0.5) / x.size).max()
    assert distance < 1.63 / np.sqrt(x.size)  # Kolmogorov-Smirnov, 1 %


def test_seeds_and_chunks_are_unrelated():
    table = filled((2 * CHUNK // 32, 32), seed=(4, 0)).ravel()
    others = [filled((CHUNK // 32, 32), seed=s).ravel() for s in ((4, 1), (5, 0), 4)]
    for other in (table[CHUNK:], *others):
        assert abs(np.corrcoef(table[:CHUNK], other)[0, 1]) < 0.01


@pytest.mark.parametrize(
    "table", [np.zeros((4, 4)), np.zeros((4, 4), np.float32).T[:, 1:], np.zeros((4, 4), np.float16)]
)
def test_arrays_it_cannot_fill_in_place_are_refused(table):
    with pytest.raises(ValueError, match="C-contiguous float32"):
        fill(table, seed=0)


@pytest.mark.parametrize("form", RowFormat)
@pytest.mark.parametrize("dim", [1, 32, 48, 64])
def test_rows_of_any_format_hold_the_float32_values_rounded(form, dim):
    rows = 2 * CHUNK // dim + 7
    table = Table("t", rows, dim)
    values = filled((rows, dim), seed=(7, 1))
    out = np.empty((rows, columns(form, dim)), dtype(form))
    for threads in (1, 2):
        out[...] = 0
        fill_rows(table, out, (7, 1), threads)
        np.testing.assert_array_equal(out, convert(values, form))

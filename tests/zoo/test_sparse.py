"""The sparse stage against plain indexing, and its refusal of ids that are out of range."""

import pytest
import torch

from deeprecsys.zoo.networks.sparse import SparseStage
from deeprecsys.zoo.schema import Pooling, Schema, SparseInput, Table
from tests.zoo.harness import make_tables

ROWS = 50


def schema(pooling: Pooling, lookups: int, dim: int = 8) -> Schema:
    return Schema((Table("t", ROWS, dim),), (SparseInput("x", "t", lookups, pooling),))


def expected(rows: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """[n, lookups, dim] pooled, the obvious way."""
    match pooling:
        case Pooling.SUM:
            return rows.sum(dim=1)
        case Pooling.MEAN:
            return rows.mean(dim=1)
        case Pooling.CONCAT:
            return rows.reshape(len(rows), -1)
        case Pooling.SEQUENCE:
            return rows


@pytest.mark.parametrize("dim", [1, 8, 33])
@pytest.mark.parametrize("lookups", [1, 7])
@pytest.mark.parametrize("pooling", Pooling)
def test_pooling_is_that_of_the_looked_up_rows(pooling, lookups, dim):
    s = schema(pooling, lookups, dim)
    tables = make_tables(s)
    stage = SparseStage(s, tables)
    for n in (1, 5, 2):
        ids = torch.randint(ROWS, (n, lookups), dtype=torch.int32, generator=torch.Generator().manual_seed(n))
        got = stage({"x": ids})["x"]
        torch.testing.assert_close(got, expected(tables["t"][ids.long()], pooling), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("bad", [ROWS, -1, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("lookups", [1, 7])
@pytest.mark.parametrize("pooling", Pooling)
def test_an_id_out_of_range_is_an_error(pooling, lookups, bad):
    s = schema(pooling, lookups)
    stage = SparseStage(s, make_tables(s))
    for row, column in {(0, 0), (4, lookups - 1)}:
        ids = torch.zeros(5, lookups, dtype=torch.int32)
        stage({"x": ids})
        ids[row, column] = bad
        with pytest.raises((RuntimeError, IndexError), match=r"range"):
            stage({"x": ids})


def test_tables_are_read_where_they_are():
    s = schema(Pooling.SUM, 3)
    tables = make_tables(s)
    stage = SparseStage(s, tables)
    ids = torch.zeros(1, 3, dtype=torch.int32)
    before = stage({"x": ids})["x"]
    tables["t"] += 1
    torch.testing.assert_close(stage({"x": ids})["x"], before + 3)


def test_a_table_of_another_shape_is_refused():
    s = schema(Pooling.SUM, 3)
    with pytest.raises(ValueError, match=r"table 't': expected shape \(50, 8\), got None"):
        SparseStage(s, {})
    with pytest.raises(ValueError, match=r"got \(50, 4\)"):
        SparseStage(s, {"t": torch.zeros(50, 4)})

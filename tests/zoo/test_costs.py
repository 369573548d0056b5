"""Parameters, FLOPs and bytes: against docs/facts.md, and against what the real networks do."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from deeprecsys.zoo import MODELS, model
from deeprecsys.zoo.schema import Per, Schema
from tests.zoo.harness import instance

# docs/facts.md §1, "What the artefact builds": dense parameters, FLOPs and embedding bytes per item, outputs.
ARTEFACT = {
    "dlrm-rmc1": (100_833, 200_832, 81_920, 1),
    "dlrm-rmc2": (319_937, 639_104, 983_040, 1),
    "dlrm-rmc3": (3_205_409, 6_406_656, 25_600, 1),
    "ncf": (148_224, 294_912, 1_024, 64),
    "wnd": (2_066_433, 4_129_280, 3_456, 1),
    "mt-wnd": (2_623_360, 5_242_880, 5_504, 128),
    "din": (82_453, 147_776, 97_536, 2),
    "dien": (67_194, 1_570_880, 5_504, 2),
}

# ... and its tables: {rows: count}, dim, look-ups, dense width.
ARTEFACT_TABLES = {
    "dlrm-rmc1": ({4_000_000: 8}, 32, 80, 128),
    "dlrm-rmc2": ({500_000: 32}, 64, 120, 256),
    "dlrm-rmc3": ({2_000_000: 10}, 32, 20, 2560),
    "ncf": ({140_000: 2, 28_000: 2}, 64, 1, 0),
    "wnd": ({1_000_000: 27}, 32, 1, 512),
    "mt-wnd": ({500_000: 41, 5_000_000: 2}, 32, 1, 512),
    "din": ({1_000_000: 1, 100_000: 251, 10_000_000: 2}, 32, 3, 0),
    "dien": ({500_000: 41, 5_000_000: 2}, 32, 1, 0),
}


def gathered_bytes(schema: Schema, x: dict[str, torch.Tensor], per: Per) -> int:
    """Bytes of the rows that one query's ids name, counted id by id."""
    return sum(x[i.name].numel() * schema.table(i.table).dim * 4 for i in schema.sparse if i.per is per)


@pytest.mark.parametrize("name", ARTEFACT)
def test_artefact_variants_cost_what_facts_say(name):
    m = model(f"{name}-artefact")
    assert (
        m.dense_parameters,
        m.flops(Per.ITEM),
        m.schema.gathered_bytes(Per.ITEM),
        m.schema.outputs,
    ) == ARTEFACT[name]


@pytest.mark.parametrize("name", ARTEFACT_TABLES)
def test_artefact_variants_have_the_tables_facts_say(name):
    counts, dim, lookups, dense = ARTEFACT_TABLES[name]
    schema = model(f"{name}-artefact").schema
    rows = [t.rows for t in schema.tables]
    assert {r: rows.count(r) for r in rows} == counts
    assert {t.dim for t in schema.tables} == {dim}
    assert [i.table for i in schema.sparse] == [t.name for t in schema.tables]
    assert {i.lookups for i in schema.sparse} == {lookups}
    assert sum(i.width for i in schema.dense) == dense


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_those_of_the_network(name):
    counted = sum(p.numel() for p in instance(name).dense.parameters())
    assert counted == model(name).dense_parameters


@pytest.mark.parametrize("sizes", [[1], [5], [2, 1, 4]])
@pytest.mark.parametrize("name", MODELS)
def test_flops_are_those_of_the_network(name, sizes):
    m = instance(name)
    with FlopCounterMode(display=False) as counter:
        if len(sizes) == 1:
            m.score(m.query(sizes[0], seed=0))
        else:
            m.score_merged([m.query(n, seed=n) for n in sizes], sizes)
    expected = len(sizes) * m.config.flops(Per.QUERY) + sum(sizes) * m.config.flops(Per.ITEM)
    assert counter.get_total_flops() == expected


@pytest.mark.parametrize("name", MODELS)
def test_bytes_are_those_of_the_ids(name):
    m = instance(name)
    x = m.query(7, seed=0)
    assert gathered_bytes(m.schema, x, Per.ITEM) == 7 * m.schema.gathered_bytes(Per.ITEM)
    assert gathered_bytes(m.schema, x, Per.QUERY) == m.schema.gathered_bytes(Per.QUERY)
    for per, rows in ((Per.ITEM, 7), (Per.QUERY, 1)):
        nbytes = sum(x[i.name].numel() * 4 for i in m.schema.inputs if i.per is per)
        nbytes += sum(rows * 8 for i in m.schema.sparse if i.per is per and i.expected)  # where ids begin
        assert nbytes == rows * m.schema.feature_bytes(per)


# The primary variants' sizes that facts fixes or that the configuration chose: a change must be deliberate.
@pytest.mark.parametrize(
    ("name", "tables", "lookups"),
    [
        ("dlrm-rmc1", {4_000_000: 10}, 800),
        ("dlrm-rmc2", {500_000: 40}, 3200),
        ("dlrm-rmc3", {2_000_000: 10}, 200),
        ("ncf", {140_000: 2, 28_000: 2}, 4),
        ("wnd", {1_000_000: 28}, 35),
        ("mt-wnd", {500_000: 41, 5_000_000: 2}, 43),
        ("din", {10_000_000: 1, 100_000: 12, 1_000_000: 1}, 214),
        ("dien", {5_000_000: 2, 500_000: 12}, 94),
    ],
)
def test_primary_variants_have_the_sizes_they_were_given(name, tables, lookups):
    schema = model(name).schema
    rows = [t.rows for t in schema.tables]
    assert {r: rows.count(r) for r in rows} == tables
    assert sum(i.lookups for i in schema.sparse) == lookups

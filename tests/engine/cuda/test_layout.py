"""Padding, places and passes: pure arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeprecsys.engine import SliceView
from deeprecsys.engine.cuda.layout import (
    MOST_SLICES,
    StagingArena,
    blocks_of,
    bucket_of,
    buckets,
    passes,
    slices_together,
)
from deeprecsys.zoo import MODELS, model


@given(st.integers(1, 4096))
def test_a_bucket_is_the_least_power_of_two_that_holds_the_items(items):
    bucket = bucket_of(items)
    assert bucket in buckets(4096)
    assert bucket >= items
    assert bucket == 1 or bucket // 2 < items


@given(st.lists(st.integers(1, 300), min_size=1, max_size=30), st.integers(1, 128), st.booleans())
def test_passes_hold_every_item_once_in_order_within_the_bucket(sizes, largest, together):
    slices = [SliceView({}, 5, 5 + n, np.empty((n, 1), np.float32)) for n in sizes]
    found = passes(slices, largest, together)
    flat = [(p.slice, i) for pieces in found for p in pieces for i in range(p.start, p.stop)]
    assert flat == [(k, i) for k, n in enumerate(sizes) for i in range(n)]
    assert all(1 <= sum(p.stop - p.start for p in pieces) <= largest for pieces in found)
    assert all(len(pieces) <= MOST_SLICES for pieces in found)
    if not together:
        assert all(len({p.slice for p in pieces}) == 1 for pieces in found)
    else:
        assert len(found) <= -(-sum(sizes) // largest) + len(sizes) // MOST_SLICES


@pytest.mark.parametrize("name", MODELS)
def test_an_arena_holds_every_input_once_and_none_over_another(name):
    schema = model(name).schema
    blocks, vectors = blocks_of(schema), schema.dense
    names = [n for b in blocks for n in b.names] + [v.name for v in vectors]
    assert sorted(names) == sorted(i.name for i in schema.inputs)
    arena = StagingArena.of(blocks, vectors, 64, 16)
    places = [*arena.blocks, *arena.vectors, arena.slice_of_item]
    ends = [0]
    for p in sorted(places, key=lambda p: p.word):
        assert p.word >= ends[-1]
        ends.append(p.word + p.words)
    assert ends[-1] <= arena.words
    assert len(blocks) <= 4, "one gather for many inputs, or it is not fused"


def test_models_with_attention_to_a_sequence_run_slice_by_slice():
    alone = {n for n in MODELS if not slices_together(model(n).schema)}
    assert alone == {"din", "dien"}

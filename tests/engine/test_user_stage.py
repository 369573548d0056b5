"""The user stage by itself: slices that read what it gave score as those that compute it."""

from __future__ import annotations

import numpy as np
import pytest

from deeprecsys.engine import SliceView, build
from tests.engine.test_engines import assembly

SIZES = [1, 24, 3, 17]


@pytest.mark.parametrize("name", ["wnd", "mt-wnd"])
def test_slices_after_a_user_stage_score_as_whole_ones(name: str) -> None:
    about, layout = assembly(name)
    engine, model = build("compiled", about), about.model
    whole, apart = ([np.empty((n, model.schema.outputs), np.float32) for n in SIZES] for _ in range(2))
    users = np.full((len(SIZES), model.user_stage), np.nan, np.float32)
    for q, out in enumerate(whole):
        engine.score([SliceView(layout.rows_at(q), 0, len(out), out)])
    stages = [SliceView(layout.rows_at(q), 0, 0, out[:0], users[q : q + 1]) for q, out in enumerate(apart)]
    engine.score(stages[:1])
    engine.score(stages[1:])
    slices = [
        SliceView(layout.rows_at(q), a, b, out[a:b], users[q : q + 1])
        for q, out in enumerate(apart) for a, b in ((0, len(out) // 2), (len(out) // 2, len(out))) if a < b
    ]  # fmt: skip
    engine.score(slices[:2])
    mixed = SliceView(layout.rows_at(0), 0, 1, np.empty_like(apart[0]))  # computes its own
    engine.score([slices[2], mixed, *slices[3:]])
    for got, wanted in zip([*apart, mixed.out], [*whole, whole[0]], strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)

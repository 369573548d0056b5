"""Our activation unit against the network's in float64, and when it takes the place of a library's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from deeprecsys.core.errors import InputError
from deeprecsys.engine.dense import build
from deeprecsys.engine.dense.attention import MOST_VECTORS, PANEL, Attention
from deeprecsys.engine.dense.interest import DinStage, interest_stage
from deeprecsys.engine.dense.recurrent import lanes
from deeprecsys.zoo.interest import DIN
from deeprecsys.zoo.ncf import NCF
from deeprecsys.zoo.networks.interest import ActivationUnit
from tests.engine.dense.harness import network, small

WIDTH = 32


def unit(hidden: int, steps: int, slope: float = 0.25) -> ActivationUnit:
    found = ActivationUnit(WIDTH, hidden, steps, 1.0)
    generator = torch.Generator().manual_seed(hidden)
    with torch.no_grad():
        for p in found.parameters():
            p.normal_(0, 0.3, generator=generator)
        found.act.weight.fill_(slope)
    return found.requires_grad_(False)


def rows(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape, np.float32)


def wanted(
    u: ActivationUnit, behaviours: np.ndarray, items: np.ndarray, slice_of_item: np.ndarray
) -> np.ndarray:
    exact = u.double()
    found = [
        exact(torch.from_numpy(np.float64(behaviours[s])), torch.from_numpy(np.float64(c[None])))
        for s, c in zip(slice_of_item, items, strict=True)
    ]
    u.float()
    return torch.cat(found).numpy()


# Whole panels alone, with one and with two vectors over, and fewer behaviours than a vector has.
@pytest.mark.parametrize("steps", [1, 5, PANEL * 8, PANEL * 16 + 7, PANEL * 16 + 15, 100])
@pytest.mark.parametrize(("hidden", "slope"), [(12, 0.25), (36, 1.5), (7, 0.0), (25, -0.5)])
def test_interests_are_those_of_the_formula(steps: int, hidden: int, slope: float) -> None:
    u = unit(hidden, steps, slope)
    behaviours, items = rows(3, steps, WIDTH), rows(11, WIDTH)
    slice_of_item = np.array([0] * 4 + [1] * 6 + [2])
    out = np.full((11, WIDTH), np.nan, np.float32)
    attention = Attention(u, steps)
    want = wanted(u, behaviours, items, slice_of_item)
    for _ in range(2):  # what a batch leaves in its scratch is nothing to the next
        attention.run(behaviours, items, slice_of_item, out)
        assert np.abs(out - want).max() <= 2e-6 * max(1.0, np.abs(want).max())
    attention.run(behaviours[:1], items[:4], slice_of_item[:4], out[:4])
    assert np.abs(out[:4] - want[:4]).max() <= 2e-6 * max(1.0, np.abs(want).max())


def test_a_number_that_is_none_stays_with_its_item() -> None:
    u, items = unit(12, 9), rows(3, WIDTH)
    items[1, 4] = np.nan
    out = np.empty((3, WIDTH), np.float32)
    Attention(u, 9).run(rows(1, 9, WIDTH), items, np.zeros(3, np.int64), out)
    assert np.isnan(out[1]).all()
    assert np.isfinite(out[[0, 2]]).all()


def test_it_is_for_one_thread_and_whole_vectors() -> None:
    config, net = small("din"), network("din")
    assert isinstance(build("onnxruntime", config, net), DinStage)
    assert not isinstance(build("onnxruntime", config, net, threads=2), DinStage)
    odd = replace(DIN, dim=lanes() // 2 + 1)
    for other in (odd, replace(DIN, attention=MOST_VECTORS * lanes() + 1), NCF):
        assert interest_stage(other, 1) is not DinStage
    with pytest.raises(ValueError, match=f"expected whole vectors of {lanes()}, got 4 and 12"):
        Attention(ActivationUnit(4, 12, 5, 1.0), 5)
    with pytest.raises(InputError, match="expected fp32, got bf16"):
        build("onnxruntime", config, net, precision="bf16")

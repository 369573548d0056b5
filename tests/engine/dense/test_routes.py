"""The contract of every route: the network's scores, for any batch of any slices, in place."""

from __future__ import annotations

import numpy as np
import pytest

from deeprecsys.core.errors import InputError
from deeprecsys.engine.dense import build, installed
from deeprecsys.zoo import MODELS
from tests.engine.dense.harness import exact, network, put, rows, score, small, stage

OTHERS = [r for r in installed() if r != "eager"]

pytestmark = pytest.mark.parametrize("route", OTHERS)


def agrees(got: np.ndarray, eager: np.ndarray, true: np.ndarray) -> bool:
    """Within 1e-5 of eager, relative above 1, or at most twice as far from float64 as eager is."""
    near = np.abs(got - eager) <= 1e-5 * np.maximum(1, np.abs(eager))
    limit = 2 * np.abs(eager - true).max()
    return bool((near | (np.abs(got - true) <= limit)).all())


ONE = [[1], [2], [16], [64], [97], [256], [1024]]
SEVERAL = [[1, 1], [5, 1, 12], [200, 3, 1, 40], [1] * 64, [512, 512]]


@pytest.mark.parametrize("sizes", ONE + SEVERAL, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_scores_are_the_networks(route: str, name: str, sizes: list[int]) -> None:
    x = rows(name, sum(sizes), len(sizes), seed=sum(sizes))
    got, eager = score(stage(route, name), x, sizes), score(stage("eager", name), x, sizes)
    assert np.isfinite(got).all()
    assert agrees(got, eager, exact(name, x, sizes))
    assert np.std(eager) > 1e-3 or len(eager) <= 2


@pytest.mark.parametrize("name", ["wnd", "dien", "din", "ncf"])
def test_batches_of_all_sizes_in_turn_leave_nothing_behind(route: str, name: str) -> None:
    s = stage(route, name)
    for sizes in ([9], [3, 4], [9], [120], [2], [3, 4], [1, 1, 5]):
        x = rows(name, sum(sizes), len(sizes), seed=len(sizes))
        assert agrees(score(s, x, sizes), score(stage("eager", name), x, sizes), exact(name, x, sizes))


@pytest.mark.parametrize("name", ["dlrm-rmc1", "dlrm-rmc3-artefact"])
def test_dense_inputs_are_read_where_they_lie(route: str, name: str) -> None:
    s, x = stage(route, name), rows(name, 20, 1, seed=2)
    pool = np.random.default_rng(5).standard_normal((50, x["dense"].shape[1]), np.float32)
    for first in (0, 13, 30):
        for n in (20, 7):
            part = {k: v[:n] for k, v in x.items()} | {"dense": pool[first : first + n]}
            put(s, {k: v for k, v in part.items() if k != "dense"} | {"dense": x["dense"][:n]}, [n])
            out = np.empty((n, 1), np.float32)
            s.run(n, None, out, {"dense": pool[first : first + n]})
            assert agrees(out, score(stage("eager", name), part, [n]), exact(name, part, [n]))
    # And from the buffer again.
    assert agrees(score(s, x, [20]), score(stage("eager", name), x, [20]), exact(name, x, [20]))


def test_dlrms_dot_interaction(route: str) -> None:
    from dataclasses import replace

    import torch

    from deeprecsys.zoo.networks import weighted

    config = replace(small("dlrm-rmc1"), interaction="dot")  # type: ignore[type-var]
    net = weighted(config, seed=1)
    s = build(route, config, net)
    x = rows("dlrm-rmc1", 33, 1, seed=4)
    with torch.inference_mode():
        eager = net({k: torch.from_numpy(v) for k, v in x.items()}, None).numpy()
    assert np.abs(score(s, x, [33]) - eager).max() <= 1e-5


def test_a_wrong_call_is_refused_in_one_line(route: str) -> None:
    s = stage(route, "dlrm-rmc1")
    s.reserve(8, 1)
    with pytest.raises(InputError, match=r"batch: expected at most \d+ items and \d+ slices, got 100000"):
        s.run(100_000, None, np.empty((100_000, 1), np.float32))
    for out in (np.empty((7, 1), np.float32), np.empty((8, 1)), np.empty((16, 1), np.float32)[::2]):
        with pytest.raises(InputError, match=r"out: expected C-contiguous float32 \[8, 1\]"):
            s.run(8, None, out)
    with pytest.raises(InputError, match=r"overrides: expected one of \['dense'\], got 'features'"):
        s.run(8, None, np.empty((8, 1), np.float32), {"features": np.empty((8, 320), np.float32)})
    with pytest.raises(InputError, match=r"'dense': expected C-contiguous float32 \[8, 256\], got float64"):
        s.run(8, None, np.empty((8, 1), np.float32), {"dense": np.empty((8, 256))})


def test_a_precision_that_is_not_there_is_refused(route: str) -> None:
    with pytest.raises(InputError, match=f"precision of dense route {route}: expected fp32.*, got int4"):
        build(route, small("ncf"), network("ncf"), precision="int4")


def test_two_threads_score_the_same(route: str) -> None:
    s = build(route, small("wnd"), network("wnd"), threads=2)
    x = rows("wnd", 130, 1, seed=3)
    assert agrees(score(s, x, [130]), score(stage("eager", "wnd"), x, [130]), exact("wnd", x, [130]))


def test_the_harness_would_notice(route: str) -> None:
    """One column of one input changed is outside every tolerance."""
    x = rows("din", 8, 1, seed=1)
    before = score(stage(route, "din"), x, [8])
    changed = x | {"candidate_goods": x["candidate_goods"] + np.float32(0.01)}
    assert not agrees(score(stage(route, "din"), changed, [8]), before, exact("din", x, [8]))

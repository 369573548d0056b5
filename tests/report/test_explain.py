"""Where time goes: the parts of a latency add up, and the words say what happened."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeprecsys.core.policy import DeepRecSched, Static
from deeprecsys.core.runlog import Status
from deeprecsys.core.target import Target
from deeprecsys.report.breakdown import breakdown, by_size, everyone, slowest
from deeprecsys.report.explain import explain, overview, waited_behind
from deeprecsys.report.slices import Slices
from tests.report.trials import poisson, run


def constant(items: int, busy: int, u: float) -> float:
    """1 ms an item."""
    return 1e-3 * items


@settings(deadline=None, max_examples=60)
@given(
    gaps=st.lists(st.integers(0, 9), min_size=1, max_size=40),
    sizes=st.lists(st.integers(1, 60), min_size=40, max_size=40),
    batch_size=st.integers(1, 70),
    workers=st.integers(1, 4),
    above=st.none() | st.integers(0, 50),
    seed=st.integers(0, 9),
)
def test_parts_add_up_to_the_latency(
    gaps: list[int], sizes: list[int], batch_size: int, workers: int, above: int | None, seed: int
) -> None:
    arrival = np.cumsum(gaps) * 2e-3
    policy = DeepRecSched(batch_size, above)
    log, batches = run(arrival, sizes[: len(gaps)], policy, {"cpu": workers, "gpu": 1}, seed=seed)
    for slices in (Slices.of(batches), None):
        parts = breakdown(log, slices)
        total = parts.queue_s + parts.compute_s + parts.merge_s
        np.testing.assert_allclose(total, log.latency_s, rtol=0, atol=1e-12)
        for part in (parts.queue_s, parts.compute_s, parts.merge_s):
            assert (part >= 0).all()
    single = np.array([s <= batch_size for s in sizes[: len(gaps)]])
    assert (breakdown(log, Slices.of(batches)).merge_s[single] == 0).all()


def test_parts_of_a_schedule_drawn_by_hand() -> None:
    log, batches = run([0.0, 0.001], [6, 12], Static(4), workers=1, service=constant)
    parts = breakdown(log, Slices.of(batches))
    # Query 0 is cut in 3 + 3; query 1 waits 5 ms, then runs 4 + 4, and its last slice 4.
    np.testing.assert_allclose(parts.queue_s, [0.0, 0.005], atol=1e-12)
    np.testing.assert_allclose(parts.compute_s, [0.003, 0.008], atol=1e-12)
    np.testing.assert_allclose(parts.merge_s, [0.003, 0.004], atol=1e-12)


def test_queries_that_were_not_served_have_no_parts() -> None:
    log, batches = run([0.0, 0.001], [6, 12], Static(4), service=constant)
    log.status[1], log.finish_s[1] = Status.SHED, np.nan
    parts = breakdown(log, Slices.of(batches))
    assert np.isnan(parts.queue_s[1])
    assert everyone(log, parts).queries == 1
    assert "1 of 2 measured queries were not served" in " ".join(overview(log, Slices.of(batches)))


def test_groups_cover_every_measured_query_once() -> None:
    log, batches = poisson(200, 5)
    parts = breakdown(log, Slices.of(batches))
    groups = by_size(log, parts)
    assert sum(g.queries for g in groups) == int(log.measured.sum())
    means = sum(g.latency_s * g.queries for g in groups) / int(log.measured.sum())
    assert means == pytest.approx(log.latency_s[log.measured].mean())
    assert sum(everyone(log, parts).shares) == pytest.approx(1)
    assert 0 < slowest(log, parts).queries <= 0.05 * len(log.size) + 1


def test_one_size_makes_one_group() -> None:
    log, batches = run(np.arange(9) * 0.01, [7] * 9)
    assert [g.label for g in by_size(log, breakdown(log, Slices.of(batches)))] == ["7 items"]


def test_what_a_query_waited_behind() -> None:
    log, batches = run([0.0, 0.001, 0.002, 0.003], [8, 4, 8, 2], Static(4), workers=1, service=constant)
    wait = waited_behind(3, log, Slices.of(batches))
    # As it came, query 0 was half done; its other half, query 1 and the halves of query 2 were in line.
    assert (wait.slices, wait.items, wait.queries) == (4, 16, 3)
    story = explain(log, Slices.of(batches), count=1)[0]
    assert story.startswith(
        "Query 3 (2 items, 1 slice) took 19.0 ms: 17.0 waiting behind 4 slices (16 items) of 3 queries, "
        "2.0 computing on 1 worker."
    )


@pytest.mark.parametrize("rate", [20, 200, 300])
def test_the_figures_of_a_story_add_up_as_printed(rate: float) -> None:
    log, batches = poisson(rate, 5, seed=1)
    for slices in (Slices.of(batches), None):
        for story in explain(log, slices, Target(latency_s=0.1), count=50):
            head, rest = re.match(r".*? took ([\d.]+) ms: (.*)", story).groups()
            listed = re.sub(r"\(.*?\)", "", re.split(r"\. |\.$", rest)[0])
            parts = [float(p.split()[0]) for p in listed.split(", ")]
            assert sum(parts) == pytest.approx(float(head), abs=1e-9)


def test_each_group_of_slow_queries_is_explained_once() -> None:
    log, batches = poisson(300, 10, seed=2)
    told = [int(re.match(r"Query (\d+)", s)[1]) for s in explain(log, Slices.of(batches), count=6)]
    assert told[0] == int(np.argmax(np.where(log.measured, log.latency_s, 0)))
    spans = sorted((log.arrival_s[q], log.finish_s[q]) for q in told)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))


def test_causes_are_named() -> None:
    arrival = [*np.arange(100) * 0.02, 2.5, 2.501, 2.502, 2.503, 2.504]
    size = [4] * 100 + [9] * 5

    def service(items: int, busy: int, u: float) -> float:
        return 1e-3 * items * (5 if items == 9 and u > 0.9 else 1)

    log, batches = run(arrival, size, Static(9), workers=1, service=service)
    log = replace(log, issued_s=log.issued_s + np.where(log.size == 9, 0.01, 0.0))
    story = explain(log, Slices.of(batches), Target(latency_s=0.02), count=1)[0]
    assert "Its size is in the top 5 %" in story
    assert "times the mean rate" in story
    assert "open at the same time missed the target too" in story
    assert "The load source itself was 10 ms late with it" in story


def test_a_slice_that_ran_long_is_named() -> None:
    log, batches = run(np.arange(40) * 0.1, [4] * 40, Static(4), workers=1, service=constant)
    slow = [(b, p, s, e + 0.012 * (b.id == 20), h + 0.012 * (b.id == 20)) for b, p, s, e, h in batches]
    log.finish_s[20] += 0.012
    assert "It ran 4.0 times as long as the median of that size" in explain(log, Slices.of(slow), count=1)[0]


def test_nothing_served_is_said() -> None:
    log, _ = run([0.0, 0.1], [3, 4])
    log.status[:], log.finish_s[:] = Status.SHED, np.nan
    assert "nothing to explain" in overview(log)[0]
    assert explain(log) == []


def test_the_slowest_queries_are_the_same_ones_in_every_sentence() -> None:
    """Of 21 queries one is slower than the 95th percentile; interpolation would count two."""
    size = np.arange(10, 220, 10)
    log, batches = run(np.arange(21) * 1.0, size.tolist(), Static(1000), workers=1, service=constant)
    assert (np.diff(log.latency_s) > 0).all()
    told = overview(log, Slices.of(batches))
    assert "Their mean size is 210 items, that of all queries 110." in told[1]

"""Workloads and their streams: parts are independent, prefixes hold, bad input is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from deeprecsys.core.errors import InputError
from deeprecsys.core.query import Query
from deeprecsys.workload import Stream, Workload
from deeprecsys.workload.arrivals import parse as arrivals
from deeprecsys.workload.sizes import parse as sizes
from deeprecsys.workload.stream import RandomStream, generator

ARRIVALS = ["poisson", "constant", "diurnal:3,2", "bursts:5,0.2,1"]
SIZES = ["production", "mlperf", "fixed:9", "mix:production@0,mlperf@2/3"]
PARTS = ("arrival_s", "size", "features")

workloads = st.builds(
    Workload,
    st.sampled_from(ARRIVALS).map(arrivals),
    st.sampled_from(SIZES).map(sizes),
    st.integers(0, 2**70),
)
rates = st.floats(1.0, 1e4)


def same(a: Stream, b: Stream, *parts: str) -> bool:
    n = min(len(a), len(b))
    return all(np.array_equal(getattr(a, p)[:n], getattr(b, p)[:n]) for p in parts or PARTS)


@given(w=workloads, rate=rates, n=st.integers(1, 200), more=st.integers(0, 200))
def test_more_queries_extend_and_never_change_the_first(w: Workload, rate: float, n: int, more: int) -> None:
    a, b = w.stream(rate, queries=n), w.stream(rate, queries=n + more)
    assert (len(a), len(b)) == (n, n + more)
    assert same(a, b)


@given(w=workloads, rate=rates, duration=st.floats(0.001, 0.1))
def test_a_duration_is_a_prefix_of_a_count(w: Workload, rate: float, duration: float) -> None:
    a = w.stream(rate, duration_s=duration)
    b = w.stream(rate, queries=len(a) + 1)
    assert same(a, b)
    assert (a.arrival_s <= duration).all()
    assert b.arrival_s[-1] > duration


@given(w=workloads, rate=rates, other=rates, name=st.sampled_from(ARRIVALS))
def test_sizes_and_features_depend_neither_on_rate_nor_on_arrivals(
    w: Workload, rate: float, other: float, name: str
) -> None:
    w = replace(w, sizes=sizes("ribbon"))  # a mix may depend on the time of an arrival, and on that alone
    assert same(w.stream(rate, queries=99), w.stream(other, queries=99), "size", "features")
    assert same(
        w.stream(rate, queries=99), replace(w, arrivals=arrivals(name)).stream(rate, queries=99), "size"
    )


@given(
    w=workloads, rate=rates, name=st.sampled_from(SIZES), locality=st.sampled_from(["uniform", "zipf:1.1"])
)
def test_arrivals_and_features_do_not_depend_on_sizes(
    w: Workload, rate: float, name: str, locality: str
) -> None:
    other = replace(w, sizes=sizes(name), locality=locality)
    assert same(w.stream(rate, queries=99), other.stream(rate, queries=99), "arrival_s", "features")


@given(w=workloads, rate=rates)
def test_another_seed_changes_every_part(w: Workload, rate: float) -> None:
    w = replace(w, arrivals=arrivals("poisson"), sizes=sizes("production"))
    a, b = w.stream(rate, queries=99), replace(w, seed=w.seed + 1).stream(rate, queries=99)
    assert not any(same(a, b, part) for part in PARTS)


def test_no_two_parts_share_a_generator() -> None:
    names = ("ARRIVALS", "SIZES", "FEATURES", "POOL")
    draws = {
        generator(5, RandomStream[name], *key).random() for name in names for key in ((), (0,), (1,), (0, 1))
    }
    assert len(draws) == 16


def test_parts_are_uncorrelated() -> None:
    s = Workload.parse().stream(100.0, queries=50_000)
    columns = np.array([np.diff(s.arrival_s, prepend=0), s.size, s.features.astype(float)])
    assert np.abs(stats.spearmanr(columns.T).statistic - np.eye(3)).max() < 0.02


def test_handles_are_uniform() -> None:
    s = Workload.parse(seed=4).stream(100.0, queries=50_000)
    assert s.features.dtype == np.uint64
    assert len(np.unique(s.features)) == len(s)
    assert stats.kstest(s.features / 2.0**64, "uniform").pvalue > 0.01
    assert stats.kstest((s.features & np.uint64(0xFFFF)) / 2.0**16, "uniform").pvalue > 0.01


def test_a_mix_follows_the_clock() -> None:
    s = Workload.parse("constant", "mix:fixed:1@0,fixed:2@3").stream(10.0, duration_s=5.0)
    np.testing.assert_array_equal(s.size, np.where(s.arrival_s < 3, 1, 2))


def test_queries() -> None:
    s = Workload.parse().stream(10.0, queries=5)
    assert s.queries() == [s.query(i) for i in range(5)]
    first = s.query(0)
    assert first == Query(0, int(s.size[0]), float(s.arrival_s[0]), int(s.features[0]))
    assert [type(x) for x in first[:4]] == [int, int, float, int]
    assert (s.arrival_s.dtype, s.size.dtype) == (np.float64, np.int32)


# --- traces ---


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "day.csv"
    path.write_text("arrival_s,size\n10,5\n11,6\n11,7\n14,8\n")
    return path


def test_a_trace_alone_is_replayed_row_by_row(trace: Path) -> None:
    s = Workload.parse(trace=trace).stream()
    assert s.rate_qps == pytest.approx(0.75)
    np.testing.assert_allclose(np.diff(s.arrival_s), [1, 0, 3])
    np.testing.assert_array_equal(s.size, [5, 6, 7, 8])


def test_a_trace_is_scaled_to_the_rate_and_repeated(trace: Path) -> None:
    s = Workload.parse(trace=trace).stream(75.0, queries=400)
    np.testing.assert_allclose(np.diff(s.arrival_s[:4]), [0.01, 0, 0.03], atol=1e-12)
    assert len(s) / s.arrival_s[-1] == pytest.approx(75.0)
    np.testing.assert_array_equal(s.size[:8], [5, 6, 7, 8, 5, 6, 7, 8])
    assert len(Workload.parse(trace=trace).stream(75.0, duration_s=1.0)) == 75


def test_arrivals_and_sizes_of_a_trace_can_be_used_alone(trace: Path) -> None:
    poisson = Workload.parse("poisson", "trace", trace=trace).stream(10.0, queries=500)
    assert same(poisson, Workload.parse("poisson").stream(10.0, queries=500), "arrival_s")
    assert set(poisson.size) == {5, 6, 7, 8}
    replayed = Workload.parse("trace", "production", trace=trace).stream(queries=50)
    assert same(replayed, Workload.parse().stream(1.0, queries=50), "size")


# --- describing ---


def test_describe_is_json_that_names_the_workload_again(trace: Path) -> None:
    for w in (
        Workload.parse("diurnal:3,9", "mix:production@0,normal:5,1,9@3/4", seed=7, locality="uniform"),
        Workload.parse(trace=trace),
    ):
        told: dict[str, Any] = json.loads(json.dumps(w.describe()))
        again = Workload.parse(
            told["arrivals"], told["sizes"]["name"], trace=told["trace"], seed=told["seed"],
            locality=told["locality"],
        )  # fmt: skip
        assert again.describe() == w.describe()
        assert same(again.stream(5.0, queries=40), w.stream(5.0, queries=40))


# --- bad input ---


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"arrivals": "possion"}, "unknown arrival process 'possion': did you mean 'poisson'?"),
        ({"sizes": "normall"}, "unknown size distribution 'normall': did you mean 'normal'?"),
        ({"locality": "zipff"}, "unknown locality 'zipff': did you mean 'zipf'?"),
        ({"locality": "zipf:9"}, "locality zipf: s: expected a number from 0.01 to 1.5, got 9"),
        ({"seed": -1}, "seed: expected an integer of at least 0, got -1"),
        ({"trace": "/no/such/file"}, "trace /no/such/file: expected a readable file, got: No such"),
    ],
)
def test_a_bad_workload_is_refused_at_once(options: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as e:
        Workload.parse(**options)
    assert str(e.value).startswith(line)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("rate", "length", "line"),
    [
        (0.0, {"queries": 5}, "rate: expected a number above 0, got 0"),
        (-3.0, {"queries": 5}, "rate: expected a number above 0, got -3"),
        (float("nan"), {"queries": 5}, "rate: expected a number above 0, got nan"),
        (None, {"queries": 5}, "rate: expected a number above 0 for poisson arrivals, got none"),
        (1.0, {"queries": 0}, "queries: expected an integer of at least 1, got 0"),
        (1.0, {"duration_s": 0.0}, "duration: expected a number above 0, got 0"),
        (1.0, {"duration_s": float("inf")}, "duration: expected a number above 0, got inf"),
        (1.0, {}, "stream: expected either a number of queries or a duration, got neither"),
        (1.0, {"queries": 5, "duration_s": 1.0}, "stream: expected either a number of queries or a duration"),
    ],
)
def test_a_bad_stream_is_refused(rate: float | None, length: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as e:
        Workload.parse().stream(rate, **length)
    assert str(e.value).startswith(line)

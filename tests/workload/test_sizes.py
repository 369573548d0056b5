"""Size distributions against docs/facts.md §3."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from deeprecsys.core.errors import InputError
from deeprecsys.core.target import percentile
from deeprecsys.workload import sizes
from deeprecsys.workload.sizes import Discrete, InOrder, Mix
from deeprecsys.workload.trace import Trace

TRACE = Trace("t", np.arange(10.0), np.array([7, 7, 9, 300, 1, 7, 9, 9, 2, 5], np.int32))
PLAIN = ["production", "mlperf", "ribbon", "lognormal", "normal", "fixed:25", "trace"]

PUBLISHED = {  # mean, p50, p75, p95, cap, items in the top 25 %
    "production": (139, 101, 170, 340, 1000, 0.52),
    "mlperf": (270, 200, 300, 700, 700, 0.46),
    "ribbon": (186, 168, 199, 378, 499, 0.38),
    "lognormal": (167, 164, 188, 228, 1024, 0.32),
}


def discrete(name: str) -> Discrete:
    found = sizes.parse(name, TRACE)
    assert isinstance(found, Discrete)
    return found


def draw(name: str, n: int, seed: int = 1) -> np.ndarray:
    return sizes.parse(name, TRACE).of(np.random.default_rng(seed).random(n), np.arange(float(n)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_large_sample_agrees_with_facts_within_a_percent(name: str) -> None:
    mean, p50, p75, p95, cap, top = PUBLISHED[name]
    sample = np.sort(draw(name, 2_000_000))
    assert sample.mean() == pytest.approx(mean, rel=0.01)
    assert percentile(sample, 0.50) == pytest.approx(p50, rel=0.01)
    assert percentile(sample, 0.75) == pytest.approx(p75, rel=0.01)
    # Exactly 95 % of `mlperf` are at most 600, and 700 is next: 700 is what just more than 95 % are.
    quantile = 0.951 if name == "mlperf" else 0.95
    assert percentile(sample, quantile) == pytest.approx(p95, rel=0.01)
    share = sample[len(sample) * 3 // 4 :].sum() / sample.sum()
    assert share == pytest.approx(top, rel=0.01)
    assert sizes.parse(name).cap == cap
    assert 1 <= sample[0] <= sample[-1] <= cap
    assert sample.dtype == np.int32


@pytest.mark.parametrize("name", PLAIN)
def test_samples_agree_with_the_exact_distribution(name: str) -> None:
    exact, sample = discrete(name), np.sort(draw(name, 500_000))
    assert sample.mean() == pytest.approx(exact.mean, rel=0.005)
    assert sample[375_000:].sum() / sample.sum() == pytest.approx(exact.top_share(), rel=0.005)
    assert exact.pmf.sum() == pytest.approx(1.0)
    assert (exact.pmf >= 0).all()
    seen = np.bincount(sample, minlength=exact.cap + 1)[1:] / len(sample)
    assert np.abs(np.cumsum(seen) - exact.cdf).max() < 0.003  # about five deviations


def test_continuous_distributions_are_rounded_to_the_nearest_and_clipped() -> None:
    n = np.arange(1, 1000)
    body = stats.lognorm(s=0.5, scale=np.exp(4.4)).cdf(n + 0.5)
    tail = stats.pareto(b=2, scale=150).cdf(n + 0.5)
    np.testing.assert_allclose(discrete("production").cdf[:-1], 0.75 * body + 0.25 * tail, atol=1e-12)
    n = np.arange(1, 1024)
    lognormal = stats.lognorm(s=0.2, scale=np.exp(5.1)).cdf(n + 0.5)
    np.testing.assert_allclose(discrete("lognormal").cdf[:-1], lognormal, atol=1e-12)
    np.testing.assert_allclose(discrete("normal").cdf[:-1], stats.norm(167, 34).cdf(n + 0.5), atol=1e-12)


def test_ribbon_is_rounded_up_and_has_the_stated_parts() -> None:
    """Drawn part by part, as docs/facts.md words it."""
    draw_, k = np.random.default_rng(3), 500_000
    body = draw_.lognormal(5.1, 0.2, k)
    body = np.where(body > 500, draw_.uniform(400, 500, k), body)
    part = draw_.random(k)
    x = np.where(part < 0.12, draw_.uniform(250, 500, k), body)
    x = np.where(part < 0.02, draw_.uniform(1, 100, k), x)
    seen = np.bincount(np.minimum(np.ceil(x), 499).astype(int), minlength=500)[1:] / k
    assert np.abs(np.cumsum(seen) - discrete("ribbon").cdf).max() < 0.003


def test_the_mlperf_p95_lies_on_a_step() -> None:
    mlperf = discrete("mlperf")
    assert mlperf.cdf[599] == 0.95
    assert (mlperf.quantile(0.95), mlperf.quantile(0.95 + 1e-9)) == (600, 700)
    assert set(np.flatnonzero(mlperf.pmf) + 1) == {100, 200, 300, 400, 500, 600, 700}
    np.testing.assert_allclose(mlperf.pmf[[99, 199, 299]] * 20, [2, 12, 2])


def test_normal_has_the_mean_and_deviation_of_lognormal() -> None:
    for name in ("normal", "lognormal"):
        d = discrete(name)
        assert d.mean == pytest.approx(167, rel=0.005)
        assert np.sqrt(d.pmf @ (np.arange(1, d.cap + 1) - d.mean) ** 2) == pytest.approx(34, rel=0.01)


def test_a_narrow_normal_is_clipped_to_at_least_one_item() -> None:
    assert set(draw("normal:1,5,4", 1000)) == {1, 2, 3, 4}


def test_fixed_is_exact() -> None:
    assert (draw("fixed:25", 1000) == 25).all()
    assert discrete("fixed:25").describe() == {
        "name": "fixed:25", "mean": 25.0, "p50": 25, "p75": 25, "p95": 25, "p99": 25, "cap": 25,
        "top_quarter_share": 0.25,
    }  # fmt: skip


def test_trace_sizes_are_the_recorded_ones() -> None:
    d = discrete("trace")
    values, counts = np.unique(TRACE.size, return_counts=True)
    np.testing.assert_array_equal(np.flatnonzero(d.pmf) + 1, values)
    np.testing.assert_allclose(d.pmf[values - 1], counts / 10, rtol=1e-12)
    assert d.mean == pytest.approx(TRACE.size.mean(), rel=1e-12)
    for q in (0.05, 0.35, 0.5, 0.75, 0.95):
        assert d.quantile(q) == percentile(TRACE.size, q)
    assert d.cap == 300


def test_in_order_repeats_the_trace() -> None:
    in_order = InOrder(TRACE)
    np.testing.assert_array_equal(in_order.of(np.zeros(23), np.zeros(23)), np.tile(TRACE.size, 3)[:23])
    assert in_order.cap == 300
    assert in_order.describe()["name"] == "in-order"


@pytest.mark.parametrize("name", ["production", "ribbon", "mix:fixed:3@0,mlperf@5,normal:9,1,20@7/9"])
@given(seed=st.integers(0, 99), n=st.integers(1, 200), more=st.integers(0, 200))
def test_more_queries_extend_and_never_change_the_first(name: str, seed: int, n: int, more: int) -> None:
    np.testing.assert_array_equal(draw(name, n, seed), draw(name, n + more, seed)[:n])


@given(u=st.lists(st.floats(0, 1, exclude_max=True), min_size=2, max_size=50).map(sorted))
def test_large_sizes_go_to_the_same_queries_whatever_the_distribution(u: list[float]) -> None:
    for name in PLAIN:
        got = sizes.parse(name, TRACE).of(np.array(u), np.zeros(len(u)))
        assert (np.diff(got) >= 0).all()
        assert 1 <= got.min() <= got.max() <= sizes.parse(name, TRACE).cap


# --- mixes over time ---


def test_a_mix_changes_with_time_alone() -> None:
    mix = sizes.parse("mix:fixed:3@0,fixed:50@10,fixed:7@15/20")
    at_s = np.array([0.0, 9.99, 10.0, 14.9, 15.0, 19.9, 20.0, 30.5, 55.0])
    np.testing.assert_array_equal(mix.of(np.full(9, 0.5), at_s), [3, 3, 50, 50, 7, 7, 3, 50, 7])
    assert mix.cap == 50


def test_the_last_part_of_a_mix_without_a_period_holds_for_ever() -> None:
    mix = sizes.parse("mix:fixed:3@0,fixed:50@10")
    np.testing.assert_array_equal(mix.of(np.zeros(3), np.array([9.0, 11.0, 1e9])), [3, 50, 50])


def test_parts_of_a_mix_are_the_distributions_themselves() -> None:
    u, at_s = np.random.default_rng(0).random(1000), np.linspace(0, 10, 1000)
    mixed = sizes.parse("mix:production@0,normal:100,20,500@5").of(u, at_s)
    np.testing.assert_array_equal(mixed[at_s < 5], sizes.parse("production").of(u, at_s)[at_s < 5])
    np.testing.assert_array_equal(mixed[at_s >= 5], sizes.parse("normal:100,20,500").of(u, at_s)[at_s >= 5])


def test_the_spec_names_the_distribution() -> None:
    for name in [*PLAIN, "in-order", "mix:production@0,normal:100,20,500@5,trace@7/9"]:
        spec = sizes.parse(name, TRACE).spec
        assert sizes.parse(spec, TRACE) == sizes.parse(name, TRACE)
        assert sizes.parse(spec, TRACE).spec == spec
    assert isinstance(sizes.parse("mix:production@0"), Mix)


# --- bad input ---


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("prodution", "unknown size distribution 'prodution': did you mean 'production'? valid: "),
        ("production:3", "sizes production: arguments: expected none, got '3'"),
        ("fixed", "sizes fixed: N: expected a number, got nothing"),
        ("fixed:", "sizes fixed: N: expected a number, got ''"),
        ("fixed:0", "sizes fixed: N: expected a number from 1 to 1.04858e+06, got 0"),
        ("fixed:2.5", "sizes fixed: N: expected an integer of at least 1, got 2.5"),
        ("normal:0", "sizes normal: mean: expected a number above 0, got 0"),
        ("normal:9,-1", "sizes normal: std: expected a number above 0, got -1"),
        ("normal:9,1,1e12", "sizes normal: cap: expected a number from 1 to "),
        ("normal:1,2,3,4", "sizes normal: arguments: expected at most 3 (mean, std, cap), got '1,2,3,4'"),
        ("trace", "sizes trace: expected a trace file beside it (--trace FILE), got none"),
        ("in-order", "sizes in-order: expected a trace file beside it (--trace FILE), got none"),
        ("mix", "sizes mix: expected NAME@FROM_S,NAME@FROM_S…[/PERIOD_S], got 'mix'"),
        ("mix:production", "sizes mix: expected NAME@FROM_S,"),
        ("mix:production@0,mlperf", "sizes mix: expected NAME@FROM_S,"),
        ("mix:production@1", "sizes mix: FROM_S: expected 0 first, then growing times, got 1"),
        ("mix:production@0,mlperf@0", "sizes mix: FROM_S: expected 0 first, then growing times, got 0"),
        ("mix:production@0,mlperf@x", "sizes mix: FROM_S: expected a number, got 'x'"),
        ("mix:production@0,mlpref@1", "unknown size distribution 'mlpref': did you mean 'mlperf'?"),
        ("mix:production@0,mlperf@5/5", "sizes mix: PERIOD_S: expected more than the last FROM_S, got 5"),
        ("mix:mix:fixed:1@0", "sizes mix: "),
    ],
)
def test_bad_names_and_arguments_get_one_line(text: str, line: str) -> None:
    with pytest.raises(InputError) as e:
        sizes.parse(text)
    assert str(e.value).startswith(line), str(e.value)
    assert "\n" not in str(e.value)


def test_a_trace_in_order_cannot_be_part_of_a_mix() -> None:
    with pytest.raises(
        InputError, match="expected distributions that do not change over time, got 'in-order'"
    ):
        sizes.parse("mix:in-order@0", TRACE)

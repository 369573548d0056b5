"""Feature locality: Zipf against its exact probabilities, the permutation, the published reuse statistics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from deeprecsys.core.errors import InputError
from deeprecsys.workload.locality import Scatter, Uniform, Zipf, parse


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def pmf(s: float, rows: int) -> np.ndarray:
    p = np.arange(1.0, rows + 1) ** -s
    return p / p.sum()


@pytest.mark.parametrize("s", [0.7, 0.9, 0.99999, 1.0, 1.1])
@pytest.mark.parametrize("rows", [1, 2, 30, 512, 513, 2000])
def test_zipf_has_its_exact_probabilities_on_small_tables(s: float, rows: int) -> None:
    ranks = Zipf(s).ranks(rng(6), rows, 300_000)
    assert 0 <= ranks.min() <= ranks.max() < rows
    seen = np.bincount(ranks, minlength=rows)
    if rows > 1:
        assert stats.chisquare(seen, pmf(s, rows) * 300_000).pvalue > 0.005


@pytest.mark.parametrize("s", [0.7, 0.9, 1.0, 1.1])
@pytest.mark.parametrize("rows", [100_003, 4_000_000])
def test_zipf_has_the_exact_mass_of_every_octave_on_large_tables(s: float, rows: int) -> None:
    n = 1_000_000
    octave = np.floor(np.log2(Zipf(s).ranks(rng(2), rows, n) + 1)).astype(int)
    starts = 2 ** np.arange(octave.max() + 1) - 1
    expected = np.add.reduceat(pmf(s, rows), starts) * n
    assert stats.chisquare(np.bincount(octave), expected * n / expected.sum()).pvalue > 0.005
    last = starts[-1]  # and evenly within the last octave: its two halves
    half = (last + rows) // 2
    tail = pmf(s, rows)[last:]
    seen = Zipf(s).ranks(rng(3), rows, n)
    expected_share = tail[: half - last].sum() / tail.sum()
    assert (seen[seen >= last] < half).mean() == pytest.approx(expected_share, abs=0.005)


@pytest.mark.parametrize("s", [0.7, 1.0, 1.1])
def test_head_share_is_exact(s: float) -> None:
    def weight(rows: int) -> float:
        head, tail = Zipf(s)._masses(rows)
        return float(head[-1] + tail)

    for k in (1, 100, 512, 5000, 1_000_000):
        assert weight(k) / weight(1_000_000) == pytest.approx(pmf(s, 1_000_000)[:k].sum(), rel=1e-6)


@pytest.mark.parametrize("law", [Uniform(), Zipf(0.7), Zipf(1.0), Zipf(1.1)], ids=lambda x: x.spec)
@pytest.mark.parametrize(("rows", "draws"), [(300, 200), (200_000, 30_000), (200_000, 1_000_000)])
def test_unique_rows_are_as_expected(law: Uniform | Zipf, rows: int, draws: int) -> None:
    seen = np.mean([len(np.unique(law.ranks(rng(s), rows, draws))) for s in range(200_000 // rows)])
    assert law.unique_rows(rows, draws) == pytest.approx(seen, rel=0.005)


def test_uniform_is_uniform() -> None:
    assert stats.chisquare(np.bincount(Uniform().ranks(rng(), 1000, 500_000), minlength=1000)).pvalue > 0.01


def test_the_default_fits_the_published_reuse_statistics() -> None:
    """facebookresearch/dlrm_datasets, locality_stats.txt, 2021: the share of accesses that go to rows
    accessed 65–128, 129–256, … 4097–8192 times is 5.8 to 4.3 %, 5 % on average; 6.9 accesses per row."""
    published = np.array([0.058, 0.052, 0.050, 0.049, 0.048, 0.048, 0.043])

    def shares(s: float) -> np.ndarray:
        counts = np.bincount(Zipf(s).ranks(rng(), 500_000, 3_450_000))
        octave = np.ceil(np.log2(np.maximum(counts, 1))).astype(int)
        return np.bincount(octave, weights=counts)[7:14] / counts.sum()

    default = parse("zipf")
    assert isinstance(default, Zipf)
    ours = shares(default.s)
    assert ours.mean() == pytest.approx(published.mean(), abs=0.002)
    assert np.abs(ours - published).max() < 0.01
    for other in (0.7, 1.1):
        assert np.abs(shares(other) - published).max() > np.abs(ours - published).max()


# --- the permutation ---


@given(rows=st.integers(1, 5000), seed=st.integers(0, 1000))
def test_scatter_is_a_permutation(rows: int, seed: int) -> None:
    got = Scatter.draw(rng(seed), rows)(np.arange(rows))
    np.testing.assert_array_equal(np.sort(got), np.arange(rows))


@pytest.mark.parametrize("rows", [500_000, 2**22, 2**22 + 1, 10_000_000])
def test_popular_rows_lie_scattered(rows: int) -> None:
    """Where the 2,000 most popular rows lie, and the gaps between them, look like chance."""
    for seed in range(5):
        hot = np.sort(Scatter.draw(rng(seed), rows)(np.arange(2000))) / rows
        assert stats.kstest(hot, "uniform").pvalue > 1e-3
        assert stats.kstest(np.diff(hot) * 2000, "expon").pvalue > 1e-3


def test_scatters_of_two_seeds_are_unrelated() -> None:
    a, b = (Scatter.draw(rng(seed), 100_000)(np.arange(100_000)) for seed in (1, 2))
    assert (a == b).mean() < 0.001
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.02


def test_specs() -> None:
    for text in ("uniform", "zipf:0.7", "zipf:1"):
        assert parse(text).spec == text
    assert parse("zipf").spec == "zipf:0.9"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("zip", "unknown locality 'zip': did you mean 'zipf'?"),
        ("zipf:0", "locality zipf: s: expected a number from 0.01 to 1.5, got 0"),
        ("zipf:x", "locality zipf: s: expected a number, got 'x'"),
        ("zipf:1,2", "locality zipf: arguments: expected at most 1 (s), got '1,2'"),
        ("uniform:1", "locality uniform: arguments: expected none, got '1'"),
    ],
)
def test_bad_localities_get_one_line(text: str, line: str) -> None:
    with pytest.raises(InputError) as e:
        parse(text)
    assert str(e.value).startswith(line)

"""What a lower precision does to scores and to the order of items, query by query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError

TOP = 10


@dataclass(frozen=True)
class Quality:
    """Scores at a lower precision compared with those of the reference.

    Attributes:
        queries: compared; items: of all of them together.
        largest_difference: of any item's score.
        largest_score: of the reference, in magnitude: what the difference is to be seen against.
        spearman, kendall: mean over queries of the rank correlation of their items (rho, and tau-b).
        spearman_least, kendall_least: of the query that came off worst.
        top_10: mean share of a query's ten best items that stay among the ten best, of queries with more
            than ten items; top_10_least: of the worst query.
        first: share of queries whose best item stays the best.

    A model of several outputs ranks by each of them; each counts as a query's ranking of its own. What
    cannot be computed from these queries (no ranking of more than one item, say) is None.
    """

    queries: int
    items: int
    largest_difference: float
    largest_score: float
    spearman: float | None
    spearman_least: float | None
    kendall: float | None
    kendall_least: float | None
    top_10: float | None
    top_10_least: float | None
    first: float | None


def compare(reference: Sequence[NDArray[np.float32]], scores: Sequence[NDArray[np.float32]]) -> Quality:
    """The quality of scores, [items, outputs] for each query, against the reference's.

    Raises:
        InputError: other queries, or no query, or scores that are no numbers.
    """
    shapes, others = [r.shape for r in reference], [s.shape for s in scores]
    if not shapes or shapes != others:
        raise InputError(
            f"scores: expected those of the reference's {len(shapes)} queries, got {len(others)}"
        )
    pairs = list(zip(reference, scores, strict=True))
    if not all(np.isfinite(a).all() and np.isfinite(b).all() for a, b in pairs):
        raise InputError("scores: expected finite numbers, got some that are not")
    rankings = [(a[:, k], b[:, k]) for a, b in pairs for k in range(a.shape[1])]
    orders = [(a, b) for a, b in rankings if len(a) > 1]
    rho = [spearman(a, b) for a, b in orders]
    tau = [kendall(a, b) for a, b in orders]
    top = [overlap(a, b, TOP) for a, b in rankings if len(a) > TOP]
    first = [overlap(a, b, 1) for a, b in orders]
    return Quality(
        queries=len(pairs),
        items=sum(len(a) for a, _ in pairs),
        largest_difference=max(float(np.abs(a - b).max(initial=0.0)) for a, b in pairs),
        largest_score=max(float(np.abs(a).max(initial=0.0)) for a, _ in pairs),
        spearman=_mean(rho),
        spearman_least=min(rho, default=None),
        kendall=_mean(tau),
        kendall_least=min(tau, default=None),
        top_10=_mean(top),
        top_10_least=min(top, default=None),
        first=_mean(first),
    )


def spearman(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Rank correlation rho of two scores of the same items; ties share their mean rank."""
    from scipy import stats

    x, y = (np.asarray(stats.rankdata(v)) - (len(v) + 1) / 2 for v in (a, b))
    return _ratio(float(x @ y), float(np.sqrt((x @ x) * (y @ y))), x, y)


def kendall(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Rank correlation tau-b of two scores of the same items."""
    from scipy import stats

    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return _ratio(0.0, 0.0, a - a.mean(), b - b.mean())
    return float(stats.kendalltau(a, b).statistic)


def overlap(a: NDArray[Any], b: NDArray[Any], count: int) -> float:
    """Share of the `count` best items by `a` that are among the `count` best by `b`; ties go by position."""
    best = (set(np.argsort(-v, kind="stable")[:count].tolist()) for v in (a, b))
    return len(next(best) & next(best)) / min(count, len(a))


def _ratio(above: float, below: float, x: NDArray[Any], y: NDArray[Any]) -> float:
    """Their quotient; of scores without any order 1 if neither has one, else 0."""
    if below == 0:
        return float(np.ptp(x) == 0 and np.ptp(y) == 0)
    return above / below


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None

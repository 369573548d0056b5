"""Which plots a run, or a comparison of runs, has; each with its title and caption."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from deeprecsys.report import format as f
from deeprecsys.report.breakdown import breakdown, by_size, everyone, slowest
from deeprecsys.report.documents import LIVE, SIMULATED, NearDocument, TuneReport
from deeprecsys.report.plots.capacity import latency_by_rate, qps_by_batch_size
from deeprecsys.report.plots.latency import Curve, latency_tail
from deeprecsys.report.plots.look import Illustration, stamp
from deeprecsys.report.plots.near import near_the_limit
from deeprecsys.report.plots.trial import time_line, where_time_goes
from deeprecsys.report.sustained import margin_words, simulator_words
from deeprecsys.report.tables import points, policy
from deeprecsys.report.view import RunView


def illustrations(view: RunView) -> Iterator[Illustration]:
    """The plots of one run: those for which it has what they need. Each says whether it is simulated."""
    ran = view.report.basis
    candidates = view.candidates if view.searched == LIVE or not view.batch_curve else ()
    if candidates or view.batch_curve:
        caption = "The large marks are the points' limits, live." if ran == LIVE else ""
        if candidates:
            caption = f"Bars are the search's intervals. {caption}"
        tuned = view.report.tuned if isinstance(view.report, TuneReport) else None
        if tuned and policy(tuned) != f.NONE:
            name = policy(tuned)
            caption += f" The curve is of fixed batch sizes; tuned is {name}, marked at its largest batch."
        curves = {"": candidates} if candidates else {}
        plot = qps_by_batch_size(curves, view.marks, view.batch_curve)
        basis = f"curve {SIMULATED}" if view.batch_curve else ""
        if candidates:
            basis += f"{', ' * bool(basis)}points with bars {view.searched or 'of the search'}"
        if view.marks and ran == LIVE:
            basis += f", static and tuned {LIVE}"
        yield Illustration("qps-by-batch-size", "Capacity against batch size", caption, stamp(plot, basis))
    if view.curves:
        named = points(view.report) if isinstance(view.report, TuneReport) else []
        rates = ", ".join(f"{role} at {f.figure(point.qps)} queries/s" for role, point in named)
        caption = "A curve that enters the shaded corner misses the target."
        yield Illustration(
            "latency-tail",
            "Latency distribution against the target",
            f"{caption} {rates.capitalize()}." if rates else caption,
            stamp(latency_tail(view.curves, view.target), ran),
        )
    if isinstance(view.report, NearDocument) and view.report.near:
        yield Illustration(
            "near-the-limit",
            "Latency near the limit, in virtual time",
            "The curve is simulated and set to today's limit; the mark is what ran live. "
            f"{margin_words(view.report).capitalize()}.{simulator_words(view.report)}",
            stamp(near_the_limit(view.report, view.live, view.target), f"curve {SIMULATED}, point {LIVE}"),
        )
    if view.probes:
        yield Illustration(
            "latency-by-rate",
            "Latency against offered rate",
            "Every rate that the search tried; the band is the interval of the capacity.",
            stamp(
                latency_by_rate(view.probes, view.target, view.interval, view.capacity_qps),
                view.searched,
            ),
        )
    yield from _of_trial(view, ran)


def _of_trial(view: RunView, ran: str) -> Iterator[Illustration]:
    if view.main is None or not len(view.main.log.size):
        return
    trial = view.main
    parts = breakdown(trial.log, trial.slices)
    groups = [
        g for g in (*by_size(trial.log, parts), everyone(trial.log, parts), slowest(trial.log, parts)) if g
    ]
    at = f"Trial {trial.name}, {f.figure(trial.log.rate_qps)} queries/s."
    if groups:
        yield Illustration(
            "where-time-goes",
            "Where a query's time goes",
            f"Mean of the queries of each size. {at}",
            stamp(where_time_goes(groups, parts.split), ran),
        )
    yield Illustration(
        "time-line",
        "Time line",
        f"Load, latency and the longest line, by time of arrival. {at}",
        stamp(time_line(trial.log, trial.slices, view.target), ran),
    )


def comparisons(views: Sequence[RunView]) -> Iterator[Illustration]:
    """The plots that lay several runs over each other."""
    curves = {v.name: v.batch_curve or v.candidates for v in views if v.batch_curve or v.candidates}
    if curves:
        yield Illustration(
            "qps-by-batch-size",
            "Capacity against batch size",
            "One curve a run; bars are the search's intervals.",
            stamp(
                qps_by_batch_size(curves),
                _each(views, lambda v: SIMULATED if v.batch_curve else v.searched),
            ),
        )
    tails = [Curve(v.name, v.curves[-1].latency_s) for v in views if v.curves]
    targets = {v.target for v in views}
    if tails:
        same = len(targets) == 1
        yield Illustration(
            "latency-tail",
            "Latency distribution" + (" against the target" if same else ""),
            "Each run's tuned point, or its only trial, at its own rate.",
            stamp(
                latency_tail(tails, targets.pop() if same else None), _each(views, lambda v: v.report.basis)
            ),
        )


def _each(views: Sequence[RunView], basis: Callable[[RunView], str]) -> str:
    """What the curves of several runs are: once where it is the same of all."""
    found = {v.name: basis(v) for v in views}
    same = set(found.values())
    return same.pop() if len(same) == 1 else ", ".join(f"{name} {b}" for name, b in found.items())

"""What a run directory has to show: one reading of it, for text, plots and page alike.

A run that has no result yet is read from its events, as far as they go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from deeprecsys.core.runlog import summarise
from deeprecsys.core.target import Target
from deeprecsys.report.format import number
from deeprecsys.report.plots import Curve, PlottedCandidate
from deeprecsys.report.rundir import Run
from deeprecsys.report.tables import FIXED
from deeprecsys.report.trialfile import TrialRecord

ROLES = ("static", "tuned")
_SAME_RATE = 1e-6
_OBJECTS = frozenset(
    {
        "static", "tuned", "target", "workload", "node", "machine", "profile", "bounds", "fraction_of_bound",
        "search", "confirmation", "point",
    }
)  # fmt: skip
_ROWS = frozenset({"candidates", "probes", "points"})
_LISTS = _ROWS | {"warnings", "interval_qps", "ratio_interval"}


@dataclass(frozen=True)
class RunView:
    """A run, sorted by what can be shown of it. What is not known is empty or None.

    Attributes:
        name: of the directory.
        kind: `tune`, `capacity`, `bench` or `profile`; by what is there.
        doc: the result, or as much of one as the configuration and the events give.
        complete: whether it is the result.
        target: what was to be met.
        candidates: the operating points that were tried, by batch size.
        marks: batch size and rate of the static and the tuned point.
        probes: the rates tried for the best point, rising.
        interval: of its capacity, and capacity_qps: that capacity.
        curves: latencies of static and tuned, or of the one trial.
        main: the trial to look into: the tuned one, or the one there is.
        problems: what is missing.
    """

    name: str
    kind: str
    doc: dict[str, Any]
    complete: bool
    target: Target | None
    candidates: tuple[PlottedCandidate, ...]
    marks: dict[str, tuple[int, float]]
    probes: tuple[dict[str, Any], ...]
    interval: tuple[float | None, float | None] | None
    capacity_qps: float | None
    curves: tuple[Curve, ...]
    main: TrialRecord | None
    problems: tuple[str, ...]


def view(run: Run) -> RunView:
    """The reading of a run."""
    complete = run.result is not None
    doc, problems = _sound(run.result if run.result is not None else _from_events(run))
    if run.machine and not doc.get("machine"):
        doc["machine"] = run.machine
    for role in ROLES:
        doc[role] = doc.get(role) or None
    kind = _kind(doc)
    best = _object(_object(doc["tuned"]).get("capacity")) or doc
    low, high = _pair(best.get("interval_qps"))
    capacity = number(best.get("capacity_qps"))
    target = _target(doc)
    records = {role: _records(run, _object(doc[role]), role, target) for role in ROLES}
    if doc.get("kept_static"):
        records = {"static": records["static"], "tuned": []}
    curves = tuple(c for role, r in records.items() if (c := _curve(role, r)))
    main = _main(run, doc, records["tuned"] or records["static"])
    if not curves and main is not None:
        curves = (Curve(main.name, main.log.latency_s[main.log.measured]),)
    return RunView(
        name=run.name,
        kind=kind,
        doc=doc,
        complete=complete,
        target=target,
        candidates=_candidates(doc),
        marks=_marks(doc),
        probes=tuple(_objects(best.get("probes"))),
        interval=None if low is None and high is None else (low, high),
        capacity_qps=capacity,
        curves=curves,
        main=main,
        problems=(*run.problems, *problems),
    )


def _sound(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The document without what cannot be what it should, and a problem for each thing left out."""
    doc, problems = dict(given), []
    for key, value in given.items():
        if value is None:
            continue
        if key in _OBJECTS and not isinstance(value, Mapping):
            problems.append(f"result {key}: expected an object, got {value!r:.40}: not shown")
            doc[key] = None
        elif key in _LISTS and not isinstance(value, list):
            problems.append(f"result {key}: expected a list, got {value!r:.40}: not shown")
            doc[key] = None
        elif key in _ROWS and len(kept := [v for v in value if isinstance(v, Mapping)]) < len(value):
            problems.append(
                f"result {key}: {len(value) - len(kept)} of {len(value)} rows are no objects: not shown"
            )
            doc[key] = kept
    return doc, problems


def _kind(doc: Mapping[str, Any]) -> str:
    if doc.get("tuned") or doc.get("candidates"):
        return "tune"
    if "points" in doc:
        return "profile"
    return "capacity" if "probes" in doc else "bench"


def _from_events(run: Run) -> dict[str, Any]:
    """What a run that did not end measured: the capacities that were found, and the best of them."""
    doc: dict[str, Any] = {
        "model": _object(run.config.get("node")).get("model"),
        "target": run.config.get("target"),
        "workload": run.config.get("workload"),
        "simulated": run.config.get("simulated"),
        "machine": run.machine,
    }
    done = [dict(e) for e in run.events if e.get("event") == "CapacityDone"]
    trials = [e for e in run.events if e.get("event") == "TrialDone"]
    if trials:
        doc["search"] = {
            "trials": len(trials),
            "seconds": sum(number(e.get("seconds")) or 0.0 for e in trials),
            "queries": sum(int(number(e.get("queries")) or 0) for e in trials),
            "voids": sum(bool(e.get("void")) for e in trials),
        }
    if done:
        doc["candidates"] = done
        best = max(done, key=lambda e: number(e.get("capacity_qps")) or 0.0)
        doc |= {k: best.get(k) for k in ("capacity_qps", "interval_qps", "probes", "confidence")}
    return doc


def _target(doc: Mapping[str, Any]) -> Target | None:
    t = _object(doc.get("target"))
    ms, quantile = number(t.get("latency_ms")), number(t.get("quantile", 0.95))
    if ms is None or quantile is None or not 0 < ms < float("inf") or not 0 < quantile < 1:
        return None
    return Target(latency_s=ms / 1e3, quantile=quantile)


def _candidates(doc: Mapping[str, Any]) -> tuple[PlottedCandidate, ...]:
    """One a fixed batch size on the CPU: what was found last, which is the finer look."""
    found: dict[int, PlottedCandidate] = {}
    for c in _objects(doc.get("candidates")):
        size = number(c.get("batch_size"))
        if size is None or number(c.get("offload_above")) is not None or c.get("policy") not in FIXED:
            continue
        low, high = _pair(c.get("interval_qps"))
        qps = 0.0 if c.get("outcome") == "unreachable" else number(c.get("capacity_qps", c.get("qps")))
        found[int(size)] = PlottedCandidate(int(size), qps, low, high)
    return tuple(found[size] for size in sorted(found))


def _marks(doc: Mapping[str, Any]) -> dict[str, tuple[int, float]]:
    marks = {}
    for role in ROLES[:1] if doc.get("kept_static") else ROLES:
        point = _object(doc[role])
        size, qps = number(point.get("batch_size")), number(point.get("qps"))
        if size is not None and qps is not None and number(point.get("offload_above")) is None:
            marks[role] = (int(size), qps)
    return marks


def _records(run: Run, point: Mapping[str, Any], role: str, target: Target | None) -> list[TrialRecord]:
    """The trials of an operating point at its rate; without such, the last that is named after its role.

    Void trials do not count, as they did not when the point was judged.
    """
    valid = [t for t in run.trials.values() if not summarise(t.log, target).void]
    named = [t for t in valid if t.name.split("-")[0] == role and _fits(t, point)]
    return _at_rate(named or valid, point, point.get("qps")) or named[-1:]


def _fits(trial: TrialRecord, point: Mapping[str, Any]) -> bool:
    """Whether a trial can be of an operating point, by what is known of both."""
    knobs = ("policy", "batch_size", "finest", "offload_above")
    return all(trial.about.get(k) == point.get(k) for k in knobs if k in trial.about and k in point)


def _at_rate(trials: Iterable[TrialRecord], point: Mapping[str, Any], qps: Any) -> list[TrialRecord]:
    rate = number(qps)
    if rate is None:
        return []
    return [t for t in trials if _fits(t, point) and abs(t.log.rate_qps - rate) <= _SAME_RATE * rate]


def _curve(role: str, records: list[TrialRecord]) -> Curve | None:
    if not records:
        return None
    latency = np.concatenate([t.log.latency_s[t.log.measured] for t in records])
    return Curve(role, latency, role)


def _main(run: Run, doc: Mapping[str, Any], records: list[TrialRecord]) -> TrialRecord | None:
    """The longest of these trials, or of those at the rate found, or of all; those with slices first."""
    found = _at_rate(run.trials.values(), doc, _object(doc.get("point")).get("rate_qps"))
    chosen = records or found or list(run.trials.values())
    return max(chosen, key=lambda t: (t.slices is not None, len(t.log.size)), default=None)


def _object(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [dict(v) for v in value if isinstance(v, Mapping)] if isinstance(value, list) else []


def _pair(value: Any) -> tuple[float | None, float | None]:
    if not isinstance(value, list | tuple) or len(value) < 2:
        return None, None
    return number(value[0]), number(value[1])

"""`--from RUN`: model, node, load, target and operating point as `tune` found them; what is given wins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deeprecsys.api.policies import class_of, from_description
from deeprecsys.api.runs import TuneRun
from deeprecsys.core.errors import InputError
from deeprecsys.core.policy import Policy
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.files import read_json
from deeprecsys.report.documents import (
    NodeDocument,
    SizesDocument,
    TuneReport,
    WorkloadDocument,
    read_report,
)
from deeprecsys.report.json_values import restored
from deeprecsys.report.rundir import read_run
from deeprecsys.zoo.custom import same_model

GivenRun = TuneRun | str | Path
"""The result of `tune`, its run directory, or the JSON that it wrote."""
Knobs = tuple[str | Policy | None, int | None, int | None]
"""A policy, its batch size and its threshold, as options give them."""


class TunedRun:
    """A run of `tune` as other commands take it.

    Attributes:
        name: in messages.

    Raises:
        InputError: there is no such run, or it did not come to a tuned point.
    """

    def __init__(self, given: GivenRun) -> None:
        self.name = "--from" if isinstance(given, TuneRun) else f"--from {given}"
        found = given if isinstance(given, TuneRun) else self._read(Path(given))
        if found.tuned is None or found.tuned.policy is None or found.model is None:
            raise self._expected("a run that came to a tuned point", "one that did not")
        self._run, self._point = found, found.tuned

    def _read(self, path: Path) -> TuneRun:
        expected = "a run directory of tune, or its JSON"
        document = read_run(path).result if path.is_dir() else read_json(self.name, path, expected)
        if document is None:
            raise self._expected("a run that came to its end", "one that did not")
        try:
            found = read_report(restored(document))
        except ValueError as e:  # nested too deeply
            raise self._expected(expected, str(e)) from e
        if not isinstance(found, TuneReport):
            kind = type(found).__name__.removesuffix("Report").removesuffix("Document").lower()
            raise self._expected("a run of tune", f"one of {kind}" if found.model else "none")
        return TuneRun.from_json(found.to_json())

    def _expected(self, what: str, got: str) -> InputError:
        return InputError(f"{self.name}: expected {what}, got {got}")

    @property
    def rate_qps(self) -> float:
        """The rate of the tuned point."""
        if self._point.qps is None:
            raise self._expected("a tuned point with its rate (qps)", "one without")
        return self._point.qps

    @property
    def drift(self) -> float | None:
        """The machine's drift while it was tuned, as a share; None where that is not known."""
        return None if self._run.drift_percent is None else self._run.drift_percent / 100

    @property
    def profile(self) -> LatencyProfile:
        """The batch times of the node."""
        if self._run.profile is None:
            raise self._expected("a run with its profile", "one without")
        return self._run.latency_profile

    def model(self, given: str | None) -> str:
        """The model, which one that is given must be."""
        model = str(self._run.model)
        if given is not None and not same_model(given, model):
            raise InputError(f"MODEL: expected {model}, of {self.name}, or none, got {given}")
        return model

    def options(self, given: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
        """The options given, and for those of `known` that are not (or None) what the run had."""
        run, node = self._run, self._run.node or NodeDocument()
        load, gpu, target = run.workload or WorkloadDocument(), run.gpu, run.target
        own = {
            "rows_scale": node.rows_scale,
            "engine": self._point.engine or run.engine,
            "precision": self._point.precision or run.precision,
            "threads": self._point.threads or run.threads,
            "workers": self._point.workers or (run.workers or {}).get("cpu"),
            "isa": node.isa,
            "locality": load.locality,
            **({"lookups": load.lookups} if load.lookups else {}),
            "arrivals": None if load.trace else load.arrivals,
            "sizes": None if load.trace else (load.sizes or SizesDocument()).name,
            "trace": load.trace,
            "gpu": gpu.engine if gpu else None,
            "gpus": gpu.workers if gpu else None,
        }
        if target and target.latency_ms is not None and given.get("target") is None:
            own["sla_ms"] = target.latency_ms
        if target and target.quantile is not None:
            own["quantile"] = 100 * target.quantile
        kept = {k: v for k, v in given.items() if v is not None}
        return {k: v for k, v in own.items() if v is not None and k in set(known)} | kept

    def knobs(self, policy: str | Policy | None, batch_size: int | None, offload_above: int | None) -> Knobs:
        """The policy that is given, with its knobs; else the tuned one, with the knobs that are given."""
        if policy is not None:
            return policy, batch_size, offload_above
        given = {"batch_size": batch_size, "offload_above": offload_above}
        given = {k: v for k, v in given.items() if v is not None}
        name = str(self._point.policy)
        own = [knob.name for knob in class_of(name)[0].knobs]
        if other := next((k for k in given if k not in own), None):
            option = f"--{other.replace('_', '-')}"
            raise InputError(
                f"{option}: expected none with policy {name}, of {self.name}, got {given[other]}"
            )
        return from_description(self._point.to_json() | given), None, None

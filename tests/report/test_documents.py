"""Typed results: they read what commands wrote before, write the same keys, and stand any damage."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace

import pytest

from deeprecsys.report.document import Document
from deeprecsys.report.documents import (
    BenchReport,
    CapacityReport,
    MachineDocument,
    ModelDocument,
    PointDocument,
    ProfileDocument,
    QualityReport,
    SimulateReport,
    TargetDocument,
    TrialExtra,
    TuneReport,
    read_report,
)
from deeprecsys.report.json_values import plain, restored
from tests.fixtures.commands import RELEASE

WRITTEN = {p.parent.name: json.loads(p.read_text()) for p in sorted(RELEASE.glob("*/result.json"))}
"""What each command of release 0.1 wrote, before results had types."""
KINDS = {
    "bench": BenchReport,
    "capacity": CapacityReport,
    "profile": ProfileDocument,
    "quality": QualityReport,
    "simulate": SimulateReport,
    "tune": TuneReport,
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_result_is_written_as_it_was_read(name: str) -> None:
    report = read_report(restored(WRITTEN[name]))
    assert type(report) is KINDS[name.partition("_")[0]]
    assert report.problems == ()
    assert json.dumps(plain(report.to_json()), sort_keys=True) == json.dumps(WRITTEN[name], sort_keys=True)


def test_rows_of_the_zoo() -> None:
    rows = json.loads((RELEASE / "models.json").read_text())
    assert [ModelDocument.from_json(row).to_json() for row in rows] == rows


@pytest.mark.parametrize("name", WRITTEN)
def test_every_key_of_a_result_has_a_type(name: str) -> None:
    unknown = {"latency_ms", "open_loop_ratio"}

    def walk(document: Document) -> None:
        named = {f.name: getattr(document, f.name) for f in fields(document)}
        known = named.pop("more")
        if not isinstance(document, TrialExtra | MachineDocument):  # these may hold anything
            assert not known.keys() - unknown, type(document)
        for value in named.values():
            for v in value if isinstance(value, tuple) else [value]:
                if isinstance(v, Document):
                    walk(v)

    walk(read_report(restored(WRITTEN[name])))


def test_what_is_built_has_the_keys_that_have_a_value() -> None:
    built = TuneReport(model="ncf", static=PointDocument(policy="static", batch_size=4), ratio=1.0)
    assert built.to_json() == {
        "model": "ncf",
        "static": {"policy": "static", "batch_size": 4},
        "ratio": 1.0,
    }
    read = TuneReport.from_json({"ratio": None, "candidates": []})
    assert replace(read, pace=1.5).to_json() == {"ratio": None, "candidates": [], "pace": 1.5}


def test_what_is_wrong_is_named_and_the_rest_is_read() -> None:
    given = {
        "model": 7,
        "ratio": "high",
        "static": {"qps": True, "p95_ms": 3, "p99_ms": math.inf},
        "tuned": [],
        "candidates": [{"batch_size": 8.0}, 3, {"batch_size": 1.5}],
        "ratio_interval": [1.0],
        "setups": {},
        "later": {"key": 1},
    }
    report = TuneReport.from_json(given)
    assert report.problems == (
        "result model: expected text, got 7: not shown",
        "result ratio: expected a number, got 'high': not shown",
        "result static.qps: expected a number, got True: not shown",
        "result tuned: expected an object, got []: not shown",
        "result candidates[1]: expected an object, got 3: not shown",
        "result candidates[2].batch_size: expected a whole number, got 1.5: not shown",
        "result ratio_interval: expected a list of 2, got [1.0]: not shown",
        "result setups: expected a list, got {}: not shown",
    )
    assert (report.model, report.tuned, report.setups) == (None, None, ())
    assert report.static is not None
    assert (report.static.qps, report.static.p95_ms, report.static.p99_ms) == (None, 3, math.inf)
    assert [c.batch_size for c in report.candidates] == [8, None]
    assert report.to_json()["later"] == {"key": 1}


@pytest.mark.parametrize("value", [None, 3, "x", [], True, math.nan, 10**400])
def test_what_is_no_object_is_an_empty_result(value: object) -> None:
    assert read_report(value).to_json() == {}
    assert read_report({"tuned": {"qps": 10**400}}).tuned.qps is None


def test_a_target_that_cannot_be_is_none() -> None:
    for quantile, ms in ((0.95, -1.0), (2.0, 5.0), (0.95, math.inf), (math.nan, 5.0), (0.95, None)):
        assert TargetDocument(quantile=quantile, latency_ms=ms).value is None
    assert TargetDocument(latency_ms=5.0).value.latency_s == 5e-3

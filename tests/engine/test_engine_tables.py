"""What `benchmarks/engine/against_limits.py` says of its measurements: tables, and goals met or not."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.lib import engine_goals, engine_tables

LIMITS = {
    "register_gflops": 100.0,
    "fp32_gflops": {"best": 90.0},
    "rows": {"table_bytes": 2e9, "ns_per_row": {"asking 128": 5.0, "reading 128": 7.0, "reading 256": 9.0}},
}


def cell(batch: int, fraction: float, call_us: float = 10.0) -> dict[str, Any]:
    own = {"us": 500.0, "fraction": fraction, "corrected_fraction": fraction, "floor_us": 400.0}
    own["corrected_floor_us"] = 450.0
    return {
        "batch": batch,
        "flops": 1e6,
        "call_overhead_us": call_us,
        "engines": {"eager fp32": {**own, "us": 1500.0}, "compiled:onnxruntime fp32": own},
    }


def models(**fractions: float) -> dict[str, Any]:
    return {
        n.replace("_", "-"): {"one": {"limits": LIMITS, "cells": [cell(1, 0.1), cell(64, x)]}}
        for n, x in fractions.items()
    }


def test_a_share_is_bold_where_its_goal_is_met() -> None:
    text = engine_tables.sections(models(dien=0.61, ncf=0.59, dlrm_rmc1=0.79), LIMITS, {"cpu": "x"})
    assert "| dien | 1.5 → 0.5, 10 % (10 %);  | 1.5 → 0.5, **61 %** (61 %);  | +10 µs |" in text
    assert "59 % (59 %)" in text
    assert text.count("**6") == 1
    assert "All cores" not in text
    assert "no bf16 instructions" in text


def test_another_machine_s_times_are_scaled_by_the_limits_of_both() -> None:
    ((name, *cells),) = engine_tables.caffe2(models(ncf_artefact=0.5))
    assert name == "ncf-artefact"
    # Rows of 256 bytes take 9 ns here; there 3.5 * 9 / 7. Products: 90 GFLOP/s here, 235 there.
    low, high = 0.121 * 7 / 3.5, 0.121 * 235 / 90
    scaled = float(cells[2].split("/")[0])
    assert low <= scaled <= high
    # Slower than the scaled time: what an engine at its corrected floor would have stands beside it.
    reached = float(cells[2].split("(floor ")[1].split(")")[0])
    assert reached == pytest.approx(scaled / 0.45, abs=0.01)
    assert cells[3:] == ["", ""]


def test_goals_are_met_or_not_and_the_places_are_named() -> None:
    found = models(dien=0.61, ncf=0.59, dlrm_rmc1=0.85)
    found["dien"]["one"]["cells"][0]["call_overhead_us"] = 41.0
    told = engine_goals.verdicts({}, {}, {"models": found})
    text = engine_goals.table(told)
    # Of each goal the share of the floor, then beside it that of the corrected one; last the calls.
    assert [v.missed() for v in told] == [[], [], ["ncf, b = 64"], ["ncf, b = 64"], ["dien"]]
    assert [v.reason != "" for v in told] == [True, False, True, False, False]
    assert "| at least 0.8 | 0.85 – 0.85 | met |" in text
    assert "not met: ncf, b = 64. That floor is below what can be" in text
    assert "| at most 40 | 10.00 – 41.00 | not met: dien |" in text


def test_the_gain_over_eager_stands_beside_what_a_floor_leaves_room_for() -> None:
    found = models(**{n.replace("-", "_"): 0.9 for n in engine_goals.GOALS})
    for k, entry in enumerate(found.values()):
        for c in entry["one"]["cells"]:
            engines = c["engines"]
            engines["compiled:onnxruntime fp32"]["gain_over_eager"] = 4.0 if k % 2 else 1.0
            engines["eager fp32"]["corrected_fraction"] = 0.5
    (*_, told) = engine_goals.verdicts({}, {}, {"models": found})
    assert told.found == {"b = 64": pytest.approx(2.0)}
    assert told.reason == "an engine at its corrected floor would gain 2.00 – 2.00"
    del found["ncf"]  # not of all models: no mean of them
    assert not any("geometric" in v.goal for v in engine_goals.verdicts({}, {}, {"models": found}))


def test_what_was_not_measured_is_not_met() -> None:
    assert engine_goals.Verdict("g", 1.0, {"here": float("nan"), "there": 2.0}).missed() == ["here"]
    assert engine_goals.verdicts({}, {}, {}) == []


def test_the_gather_s_goals_come_from_both_sittings() -> None:
    at = {"locality": "uniform", "batch": 64}
    one = {**at, "ns_per_row": {"torch": 20.0, "torch, huge pages": 11.0, "fp32": 10.0, "asking": 9.0}}
    two = {**at, "ns_per_row": {"fp32": 12.0, "bf16": 8.0}}
    gather = {"models": {"dlrm-rmc1": {"libraries": [one], "formats": [two]}}}
    ratios = [next(iter(v.found.values())) for v in engine_goals.verdicts(gather, {}, {})]
    assert ratios == pytest.approx([2.0, 3.0, 1.1, 1.65])

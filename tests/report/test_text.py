"""Text: every figure that is known is there, what is not is a dash, and columns line up."""

from __future__ import annotations

import math
import re

import pytest

from deeprecsys.report import format as f
from deeprecsys.report import text
from deeprecsys.report.documents import (
    BenchReport,
    CapacityReport,
    ProfileDocument,
    SimulateReport,
    TuneReport,
)
from deeprecsys.report.sustained import simulator_words
from deeprecsys.report.tables import TextTable
from deeprecsys.report.warnings import void, warnings

POINT = {"batch_size": 128, "qps": 214.4, "p50_ms": 38.2, "p95_ms": 97.1, "p99_ms": 141.0, "served": 1.0}
TUNE = {
    "model": "dlrm-rmc1",
    "target": {"quantile": 0.95, "latency_ms": 100.0},
    "machine": {"cpu": "some CPU", "cores": 2, "memory_bytes": 8e9},
    "static": {**POINT, "batch_size": 500, "qps": 155.3},
    "tuned": {**POINT, "offload_above": None, "engine": "eager", "precision": "fp32"},
    "ratio": 1.38,
    "ratio_interval": [1.31, 1.45],
    "offline_qps": 262.1,
    "bounds": None,
    "fraction_of_bound": None,
    "simulator_error": None,
    "search": {"trials": 41, "seconds": 233.0, "queries": 41234},
}


HELD = {
    "verdict": "sustained", "seconds": 60.0, "queries": 12_864, "relaxation_times": 431.2, "trend": 0.3,
    "rising": False, "miss_rate": 0.021, "miss_interval": [0.01, 0.034], "lacks": [],
}  # fmt: skip
SUSTAINED = {
    **TUNE,
    "tuned": {**TUNE["tuned"], "policy": "coalescing", "sustained": HELD, "limit_today_qps": 231.0},
    "eager": {**POINT, "batch_size": 500, "qps": 97.0, "engine": "eager"},
    "limit_today_qps": 231.0, "limit_interval_qps": [222.0, 240.0],
    "margin_percent": 4.4, "drift_percent": 4.4,
    "engine_gain": 1.6, "engine_gain_interval": [1.5, 1.7],
    "scheduling_gain": 1.38, "scheduling_gain_interval": [1.31, 1.45],
    "near": [{"percent": 5.0, "rate_qps": 225.1, "latency_ms": 180.0, "simulated": True},
             {"percent": 10.0, "rate_qps": 235.8, "latency_ms": None, "simulated": True}],
}  # fmt: skip


def test_tune_says_four_things_first() -> None:
    result, sure, why, command, *rest = text.tune(TuneReport.from_json(SUSTAINED)).splitlines()
    assert result == "dlrm-rmc1, p95 ≤ 100 ms: 214 queries/s, p95 97.1 ms live"
    assert sure.startswith(
        "sustained for 60 s: 12,864 queries, 431 relaxation times of the queue, 2.1 % late"
    )
    assert "limit today 231 queries/s (222–240); batches may take 4.4 % longer" in sure
    gains = "engine 1.60× (1.50× to 1.70×), scheduling 1.38× (1.31× to 1.45×) by today's limits"
    assert why.startswith(f"{gains}; queries share")
    assert command.startswith("deeprecsys serve dlrm-rmc1 --from ")
    assert not rest
    assert (
        text.next_command(TuneReport.from_json(SUSTAINED), "runs/a")
        == "deeprecsys serve dlrm-rmc1 --from runs/a"
    )


def test_a_simulated_curve_says_how_far_the_simulator_was_from_the_run() -> None:
    known = {"simulator_error": -0.23, "paced_simulator_error": 0.021}
    said = simulator_words(TuneReport.from_json({**SUSTAINED, **known}))
    assert "simulator's p95 is -23.0 % off, +2.1 % at that run's mean speed;" in said
    assert simulator_words(TuneReport.from_json(SUSTAINED)) == ""


def test_an_end_of_a_limit_that_is_open_or_cut_off_says_why() -> None:
    open_end = {**SUSTAINED, "limit_interval_qps": [222.0, None]}
    said = text.tune(TuneReport.from_json(open_end))
    assert "limit today 231 queries/s (222 or more: the trials do not show its upper end);" in said
    cut = {**SUSTAINED, "limit_interval_qps": [222.0, 231.0], "limit_bound_qps": 231.0}
    said = text.tune(TuneReport.from_json(cut))
    assert "limit today 231 queries/s (222–231, cut off at the bound);" in said
    assert "∞" not in said


def test_what_is_less_than_sustained_is_never_called_so() -> None:
    short = {**HELD, "verdict": "undecided", "seconds": 12.0, "lacks": ["60 s", "5,000 queries"]}
    said = text.tune(TuneReport.from_json({**SUSTAINED, "tuned": {**TUNE["tuned"], "sustained": short}}))
    assert "met for 12 s, undecided" in said
    assert "lacks 60 s, 5,000 queries" in said
    assert "sustained" not in said
    assert "onfirmed" not in said
    missed = {**short, "verdict": "not met"}
    said = text.tune(TuneReport.from_json({**SUSTAINED, "tuned": {**TUNE["tuned"], "sustained": missed}}))
    assert "not met in 12 s" in said


def test_verbose_tune_has_all_points_and_what_lies_near_the_limit() -> None:
    said = text.tune_whole(TuneReport.from_json(SUSTAINED))
    rows = [line.split() for line in said.splitlines()]
    static, eager = (next(r for r in rows if r[:1] == [role]) for role in ("static", "eager"))
    tuned = next(r for r in rows if r[:1] == ["tuned"])
    assert "155" in static
    assert "97.0" in eager
    assert tuned[1] == "231", "the limit comes before the rate that ran"
    assert ["+5", "%", "225", "180"] in rows
    assert ["+10", "%", "236", "no", "end"] in rows
    assert "search: 41 trials, 41,234 queries, 3 min 53 s" in said
    assert "machine: some CPU, 2 cores, 8.00 GB" in said
    assert "warning" not in said


def test_a_drift_beyond_the_margin_is_warned_of() -> None:
    (said,) = warnings(TuneReport.from_json({**SUSTAINED, "drift_percent": 9.0}))
    assert said == "the machine's speed changed by 9 % meanwhile, more than the margin of 4.4 %"


def test_a_machine_without_a_meter_says_nothing_of_energy() -> None:
    spent = {"seconds": 60.0, "qps_per_watt": "unavailable", "joules": "unavailable"}
    doc = {**SUSTAINED, "tuned": {**SUSTAINED["tuned"], "energy": spent}}
    assert "energy" not in text.tune_whole(TuneReport.from_json(doc))
    metered = {**spent, "qps_per_watt": 3.0, "joules": 100.0}
    doc = {**SUSTAINED, "tuned": {**SUSTAINED["tuned"], "energy": metered}}
    assert "tuned energy" in text.tune_whole(TuneReport.from_json(doc))


@pytest.mark.parametrize("kind", [TuneReport, BenchReport, CapacityReport, ProfileDocument, SimulateReport])
def test_nothing_known_raises_nothing(kind) -> None:
    nothing = kind.from_json(dict.fromkeys([*TUNE, "points", "probes", "point", "interval_qps"]))
    assert isinstance(text.text_of(kind()), str)
    assert isinstance(text.text_of(nothing), str)
    assert isinstance(text.compare([("a", kind()), ("b", nothing)]), str)


def test_bench_says_whether_the_target_was_met() -> None:
    doc = {
        **TUNE,
        **POINT,
        "rate_qps": 214.4,
        "offered": 10,
        "completed": 9,
        "shed": 1,
        "failed": 0,
        "served": 0.9,
    }
    said = text.bench(BenchReport.from_json(doc))
    assert "target  " in said
    assert "p95 ≤ 100 ms: met" in said
    assert "90 %: 9 of 10 queries, 1 shed" in said
    assert "warning: only 90 % of the offered queries were served" in said
    assert "missed, 120 ms" in text.bench(BenchReport.from_json({**doc, "p95_ms": 120.0}))
    unanswered = text.bench(BenchReport.from_json({**doc, "p95_ms": math.inf}))
    assert "missed, more than 5.0 % without an answer" in unanswered


OVERLOADED = {
    **TUNE,
    **POINT,
    "offered": 1000,
    "completed": 300,
    "p95_ms": math.inf,
    "goodput_qps": 0.0,
    "throughput_qps": 121.0,
    "asked_s": 10.0,
    "gave_up_after_s": 3.01,
    "extra": {"abandoned": True, "elapsed_s": 3.01},
}


def test_a_trial_that_was_given_up_says_so_before_its_figures() -> None:
    title, _, said = text.bench(BenchReport.from_json(OVERLOADED)).split("\n", 2)
    assert "214 queries/s offered" in title
    assert said.startswith(
        "gave up after 3.01 s of 10 s: a query had waited for 20 targets (--no-abandon goes on)"
    )
    assert re.search("goodput +0 queries/s, answered within the target", said)
    assert re.search("throughput +121 queries/s, answered at all", said)
    assert ": 300 of 1,000 queries, 700 left open" in said
    assert "gave up" not in text.bench(BenchReport.from_json({**OVERLOADED, "extra": {"abandoned": False}}))


def test_a_trial_that_release_0_1_gave_up_says_so_too() -> None:
    old = {k: v for k, v in OVERLOADED.items() if k not in ("asked_s", "gave_up_after_s")}
    assert "gave up after 3.01 s: a query" in text.bench(BenchReport.from_json(old))


def test_a_void_trial_says_void_first_and_met_nowhere() -> None:
    report = BenchReport.from_json({**TUNE, **POINT, "void": True, "lateness_p99_ms": 7.0})
    said = text.text_of(report)
    assert said.startswith("VOID: the load source was late (p99 7.00 ms)")
    assert "met" not in said
    assert next(iter(report.to_json())) == "void"
    assert text.compare([("a", report), ("b", report)]).startswith("a: VOID: ")
    assert void(BenchReport.from_json({**TUNE, **POINT, "void": False})) == ""


def test_capacity_lists_the_rates_that_were_tried() -> None:
    probes = [
        {"rate_qps": r, "verdict": v, "miss_rate": m, "miss_low": 0.0, "miss_high": 0.1, "p95_ms": 90.0}
        for r, v, m in ((220.0, "failed", 0.08), (200.0, "passed", 0.01))
    ]
    doc = {**TUNE, "qps": 210.0, "interval_qps": [205.0, None], "confidence": 0.95, "probes": probes}
    said = text.capacity(CapacityReport.from_json(doc))
    assert "210 queries/s, 205 or more at 95 % confidence" in said
    assert said.index("200") < said.index("failed")
    below = {**doc, "qps": None, "interval_qps": [0.0, 30.0]}
    assert "below 30.0 queries/s" in text.capacity(CapacityReport.from_json(below))


def test_policies_that_a_batch_size_does_not_describe_are_named() -> None:
    found = {"outcome": "found", "batch_size": 256, "offload_above": None}
    doc = {
        **TUNE,
        "tuned": {**TUNE["tuned"], "policy": "coalescing", "batch_size": 256, "finest": 16},
        "candidates": [
            {**found, "policy": "deeprecsched", "capacity_qps": 180.0},
            {**found, "policy": "coalescing", "finest": 16, "capacity_qps": 214.0},
            {**found, "policy": "adaptive", "finest": 8, "outcome": "below floor", "capacity_qps": None,
             "interval_qps": [0.0, 190.0]},
            {**found, "policy": "adaptive", "finest": 1, "outcome": "unreachable"},
        ],
        "search": {"trials": 0, "seconds": 0.0, "queries": 0,
                   "simulated": {"trials": 300, "seconds": 9000.0, "queries": 1_200_000}},
    }  # fmt: skip
    said = text.tune_whole(TuneReport.from_json(doc))
    rows = [line.split() for line in said.splitlines()]
    assert ["–", "256", "–", "180"] in rows
    assert ["coalescing", "256", "16", "214"] in rows
    assert ["adaptive", "256", "8", "below", "190"] in rows
    assert ["adaptive", "256", "1", "misses", "at", "any", "rate"] in rows
    assert "search: 0 trials, 0 queries" in said
    assert "search, in virtual time: 300 trials, 1,200,000 queries" in said
    assert text.knobs(doc["tuned"]) == "coalescing, batch size 256, finest 16"
    assert text.knobs({"policy": "clipper", "batch_size": None, "step": 16}) == "clipper, step 16"
    assert text.knobs({"policy": "triton", "batch_size": 1000, "delay_ms": 0.5}) == (
        "triton, batch size 1,000, delay 0.5 ms"
    )


def test_bounds_are_those_that_the_fraction_is_of() -> None:
    bounds = {"capacity_qps": 100.0, "o_fcfs_qps": 90.0, "capacity_coalescing_qps": 300.0}
    doc = {**TUNE, "bounds": bounds, "fraction_of_bound": {"bound": "o_fcfs_coalescing", "value": 0.9}}
    assert dict(text.context(TuneReport.from_json(doc)))["capacity bound"] == "300 queries/s"
    doc["fraction_of_bound"] = {"bound": "o_fcfs", "value": 0.9}
    assert dict(text.context(TuneReport.from_json(doc)))["capacity bound"] == "100 queries/s"


def test_what_is_simulated_is_said_to_be() -> None:
    doc = {
        **TUNE,
        **POINT,
        "simulated": True,
        "workers": {"cpu": 4},
        "profile": {"machine": {"cpu": "another"}},
    }
    report = SimulateReport.from_json(doc)
    assert [w for w in warnings(report) if "simulated" in w] == [
        "simulated: a prediction in virtual time from a latency profile, not a measurement"
    ]
    assert not [w for w in warnings(report) if "another machine" in w], "it was to be simulated here"
    assert "simulated, 4 workers" in text.simulate(report)
    assert not [
        w for w in warnings(TuneReport.from_json({**doc, "simulated": {"p95_ms": 1.0}})) if "prediction" in w
    ]


def test_a_simulated_search_shows_the_static_batch_and_the_limit_in_a_line_each() -> None:
    doc = {
        "model": "wnd",
        "simulated": True,
        "outcome": "found",
        "qps": 7350.0,
        "static": {"policy": "static", "batch_size": 25, "qps": 3000.0},
        "ratio": 2.45,
        "bounds": {"o_fcfs_qps": 6000.0, "o_fcfs_coalescing_qps": 7500.0},
        "fraction_of_bound": {"bound": "o_fcfs_coalescing", "value": 0.98},
    }
    said = text.simulate(SimulateReport.from_json(doc)).splitlines()
    assert said[0].endswith(": 7,350 queries/s")
    assert said[1] == "static, batch size 25: 3,000 queries/s; the best policy carries 2.45× that"
    assert said[2] == "at most about 7,500 queries/s by the bound; you are at 98 %"
    unreachable = {**doc, "static": {"policy": "static", "batch_size": 25}, "ratio": None}
    assert "static, batch size 25: misses the target at any rate" in text.simulate(
        SimulateReport.from_json(unreachable)
    )


def test_compare_names_what_is_the_same_once() -> None:
    one, other = TuneReport.from_json(TUNE), TuneReport.from_json({**TUNE, "model": "ncf"})
    said = text.compare([("a", one), ("b", one)])
    assert said.splitlines()[0] == "dlrm-rmc1, p95 ≤ 100 ms"
    assert said.count("dlrm-rmc1") == 1
    assert text.compare([("a", one), ("b", other)]).count("dlrm-rmc1") == 2


def test_columns_line_up() -> None:
    lines = str(TextTable(("name", "figure"), (("a", "1"), ("long name", "1,000")))).splitlines()
    assert lines == ["name       figure", "a               1", "long name   1,000"]


@pytest.mark.parametrize(
    ("doc", "said"),
    [
        (
            {"tuned": {"void": True, "lateness_p99_ms": 7.0}},
            "tuned: VOID: the load source was late (p99 7.00 ms)",
        ),
        ({"search": {"voids": 2}}, "2 void trials were repeated"),
        ({"search": {"complete": False}}, "before every candidate was tried"),
        ({"tuned": {"served": 0.9999}}, "tuned: only 99.99 %"),
        ({"static": {"met": False}}, "static: no rate that was tried met the target"),
        ({"engine": "wait:5"}, "engine wait:5 scores nothing"),
        ({"tuned": {"emulated": True}}, "the accelerator is emulated"),
        ({"node": {"huge_page_fraction": 0.25}}, "only 25 % of the embedding tables lie on huge pages"),
        ({"node": {"dispatcher": "normal priority"}}, "SCHED_FIFO is not permitted"),
        ({"machine": {"cpu": "a"}, "profile": {"machine": {"cpu": "b"}}}, "measured on another machine (b)"),
        ({"tuned": {"qps": 9.0}, "offline_qps": 8.0}, "the offline rate is below the tuned one"),
        ({"fraction_of_bound": {"bound": "o_fcfs", "value": 1.1}}, "above its bound"),
        ({"pace": 0.7}, "batches took 0.700 times what the profile says"),
        ({"warnings": ["mind the gap"]}, "mind the gap"),
    ],
)
def test_warnings(doc: dict, said: str) -> None:
    found = warnings(TuneReport.from_json(doc))
    assert any(said in w for w in found)
    assert len(found) == 1
    assert warnings(TuneReport.from_json(TUNE)) == []


def test_numbers() -> None:
    assert [f.figure(x) for x in (0, 0.0412, 4, 41.2, 99.96, 412.4, 41234)] == [
        "0", "0.0412", "4.00", "41.2", "100", "412", "41,234",
    ]  # fmt: skip
    assert [f.figure(x) for x in (None, math.nan, math.inf, "unavailable", True)] == [
        "–",
        "–",
        "∞",
        "unavailable",
        "–",
    ]
    assert [f.share(x) for x in (0, 0.05, 0.34, 0.993, 0.99996, 0.999999, 1)] == [
        "0 %", "5.0 %", "34 %", "99.3 %", "99.99 %", "99.99 %", "100 %",
    ]  # fmt: skip
    assert [f.seconds(x) for x in (0.85, 12.34, 250, 7500)] == ["850 ms", "12.3 s", "4 min 10 s", "2 h 5 min"]
    assert [f.size(x) for x in (0, 999, 81_920, 2.56e9)] == ["0 B", "999 B", "81.9 KB", "2.56 GB"]
    assert [f.magnitude(x) for x in (147, 200_832, 5_242_880)] == ["147", "201 k", "5.24 M"]

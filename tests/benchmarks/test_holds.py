"""The benchmark of whether points hold: who takes turns, what is counted apart, and how it goes on."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.harness import Run
from benchmarks.search import holds


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Tunings and runs made up: the third run of each point finds a slow machine, the fifth misses."""
    order: list[tuple[str, ...]] = []

    def tune(name: str, level: str, quick: bool) -> dict[str, Any]:
        order.append(("tune", name, level))
        if name == "din":
            raise SystemExit("no operating point held")
        point = {
            "policy": "coalescing", "batch_size": 256, "qps": 100.0, "p95_ms": 80.0, "p99_ms": 90.0,
            "sustained": {"verdict": "sustained"}, "limit_today_qps": 110.0,
            "limit_interval_qps": [105.0, None],
        }  # fmt: skip
        static = {**point, "limit_today_qps": 88.0, "limit_interval_qps": [80.0, 99.0]}
        return {
            "target": {"latency_ms": 100.0}, "limit_today_qps": 110.0, "margin_percent": 5.0,
            "engine": "compiled", "tuned": point, "static": static, "eager": None,
            "engine_gain": None, "engine_gain_interval": None,
            "scheduling_gain": 1.25, "scheduling_gain_interval": None,
        }  # fmt: skip

    def held(name: str, level: str, tuning: dict[str, Any], number: int, quick: bool) -> dict[str, Any]:
        order.append(("run", name, level, str(number)))
        drift = 9.0 if number == 2 else 1.0
        met = number not in (2, 4)
        return {
            "at": f"2026-01-02T{10 + number // 6}:{10 * (number % 6):02}:00+00:00",
            "drift_percent": drift,
            "met": met,
            "served": 1.0,
            "p95_ms": 80.0,
            "void": False,
        }

    monkeypatch.setattr(holds, "tune", tune)
    monkeypatch.setattr(holds, "held", held)
    monkeypatch.setattr(holds.time, "sleep", lambda seconds: None)
    return order


def make(*argv: str) -> Run:
    """A run that is kept in memory."""
    made = Run("search_holds", holds.BENCHMARK._options(argv))

    def save(result: Any) -> None:
        made.result = {"machine": {"cpu": "a CPU", "isa": ["avx2"], "cores": 2}, **result}

    made.save = save  # type: ignore[method-assign]
    return made


def test_points_take_turns_and_runs_on_a_slow_machine_are_counted_apart(ran: list[tuple[str, ...]]) -> None:
    one = make("wnd")
    holds.run(one)
    assert ran[:2] == [("tune", "wnd", "medium"), ("tune", "wnd", "low")]
    assert ran[2:6] == [("run", "wnd", level, n) for n in "01" for level in ("medium", "low")]
    assert len(ran) == 2 + 2 * holds.RUNS
    row = next(
        line for line in holds.tables(one.result)["holds"].splitlines() if line.startswith("| wnd medium")
    )
    cells = [c.strip() for c in row.split("|")]
    assert "8 of 9" in cells, "one of ten apart, one missed"
    assert "0 of 1" in cells
    assert "10:00 to 11:30, 1.5 h" in cells, "when the first and the last run were"


def test_it_goes_on_where_it_ended(ran: list[tuple[str, ...]]) -> None:
    one = make("wnd")
    holds.run(one)
    for point in one.result["points"].values():
        del point["runs"][7:]
    more = make("wnd", "--more")
    more.result = one.result
    ran.clear()
    holds.run(more)
    assert ran == [("run", "wnd", level, n) for n in "789" for level in ("medium", "low")]


def test_tunings_at_the_medium_target_are_the_main_table(ran: list[tuple[str, ...]]) -> None:
    one = make("wnd", "ncf")
    holds.run(one)
    found = holds.tables(one.result)
    rows = [
        [c.strip() for c in line.split("|")[1:-1]] for line in found["models"].splitlines() if "|" in line
    ]
    assert [row[0] for row in rows[2:]] == ["ncf", "wnd", "geometric mean"]
    assert rows[2][2:7] == ["–", "88.0 (80.0–99.0)", "110 (105 or more)", "–", "1.25"]
    assert rows[-1][5:7] == ["–", "1.25"]


def test_what_fails_is_left_for_more_and_the_others_go_on(
    ran: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    one = make("din", "ncf")
    holds.run(one)
    assert one.failed == ["tune din medium", "tune din low"]
    assert len(one.result["points"]["ncf medium"]["runs"]) == holds.RUNS
    said = capsys.readouterr().out.splitlines()
    assert said[-1].endswith("run 10 of 10, held; about 8 min left"), "the two tunings are left"


def test_a_quick_run_sees_one_point_once(ran: list[tuple[str, ...]]) -> None:
    holds.run(make("--quick"))
    assert [what for what, *_ in ran] == ["tune", "run"]

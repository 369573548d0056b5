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
        point = {"qps": 100.0, "sustained": {"verdict": "sustained"}}
        about = {"target": {"latency_ms": 100.0}, "limit_today_qps": 110.0, "margin_percent": 5.0}
        return {"tuned": point, **about}

    def held(name: str, level: str, tuning: dict[str, Any], number: int, quick: bool) -> dict[str, Any]:
        order.append(("run", name, level, str(number)))
        drift = 9.0 if number == 2 else 1.0
        met = number not in (2, 4)
        return {
            "at_s": 600.0 * number,
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
    assert "1.5" in cells, "hours between the first and the last run"


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


def test_a_quick_run_sees_one_point_once(ran: list[tuple[str, ...]]) -> None:
    holds.run(make("--quick"))
    assert [what for what, *_ in ran] == ["tune", "run"]

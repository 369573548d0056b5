"""The benchmark of goodput in overload, as quickly as it goes."""

from __future__ import annotations

import pytest

from benchmarks.search.overload import BENCHMARK, agreement


def test_agreement_is_of_medians_and_nothing_agrees_with_nothing() -> None:
    assert agreement([95.0, 1.0, 100.0], [100.0, 100.0, 3.0]) == pytest.approx(0.05)
    assert agreement([0.0], [0.0]) == 0
    assert agreement([1.0], [0.0]) == 1


@pytest.mark.live
def test_short_and_long_runs_of_every_case_are_made(capsys: pytest.CaptureFixture[str]) -> None:
    BENCHMARK.main(["--quick"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0].strip("| ") for row in rows] == ["case", "deeprecsched", "deadline", "server"]
    assert rows[0][1:3] == ["goodput in 0.5 s, QPS", "goodput in 1 s, QPS"]
    in_order, late_last = ([float(x) for x in row[1:3]] for row in rows[1:3])
    assert in_order == [0, 0]
    assert min(late_last) > 0

"""Energy counters: summed over packages, and unavailable where they cannot be read."""

from __future__ import annotations

from pathlib import Path

from deeprecsys.report.energy import nvml_watts, rapl_joules
from deeprecsys.report.machine import UNAVAILABLE


def test_packages_are_summed_and_their_parts_are_not(tmp_path: Path) -> None:
    for zone, uj in (("intel-rapl:0", 2_000_000), ("intel-rapl:1", 3_000_000), ("intel-rapl:0:0", 999)):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "energy_uj").write_text(f"{uj}\n")
    assert rapl_joules(tmp_path) == 5.0


def test_what_is_not_there_is_unavailable(tmp_path: Path) -> None:
    assert rapl_joules(tmp_path) == UNAVAILABLE
    (tmp_path / "intel-rapl:0").mkdir()
    assert rapl_joules(tmp_path) == UNAVAILABLE


def test_accelerators_have_watts_or_are_unavailable() -> None:
    found = nvml_watts()
    assert found == UNAVAILABLE or all(w >= 0 for w in found)

"""Energy: counters' differences over time where there are any, else said to be unavailable."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deeprecsys.machine import energy
from deeprecsys.machine.energy import Energy, packages, per_watt, spent_joules
from deeprecsys.machine.record import UNAVAILABLE


def zone(root: Path, name: str, uj: int) -> None:
    (root / name).mkdir(exist_ok=True)
    (root / name / "energy_uj").write_text(f"{uj}\n")
    (root / name / "max_energy_range_uj").write_text("10000000\n")


def clock(monkeypatch: pytest.MonkeyPatch, *times: float) -> None:
    left = iter(times)
    monkeypatch.setattr(energy.time, "monotonic", lambda: next(left))


def nvml(monkeypatch: pytest.MonkeyPatch, **more: Any) -> list[Any]:
    """A library whose counters rise by 30 J between two readings; the handles that it was asked for."""
    asked: list[Any] = []
    readings = iter([1_000, 31_000])

    def handle(which: Any) -> Any:
        asked.append(which)
        return which

    fake = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: asked.append("shut"),
        "nvmlDeviceGetHandleByIndex": handle,
        "nvmlDeviceGetHandleByUUID": handle,
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: next(readings),
        **more,
    }
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(**fake))
    return asked


def test_packages_are_summed_their_parts_are_not_and_a_counter_may_wrap(tmp_path: Path) -> None:
    for name, uj in (("intel-rapl:0", 2_000_000), ("intel-rapl:1", 9_000_000), ("intel-rapl:0:0", 999)):
        zone(tmp_path, name, uj)
    before = packages(tmp_path)
    zone(tmp_path, "intel-rapl:0", 5_000_000)
    zone(tmp_path, "intel-rapl:1", 1_000_000)
    assert spent_joules(before, packages(tmp_path)) == pytest.approx(3.0 + 2.0)


def test_what_cannot_be_read_is_unavailable(tmp_path: Path) -> None:
    assert spent_joules(packages(tmp_path), packages(tmp_path)) == UNAVAILABLE
    (tmp_path / "intel-rapl:0").mkdir()
    assert packages(tmp_path) is None


def test_queries_per_second_per_watt_are_queries_per_joule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml(monkeypatch)
    clock(monkeypatch, 10.0, 10.5)
    zone(tmp_path, "intel-rapl:0", 1_000_000)
    with Energy([0], tmp_path) as spent:
        zone(tmp_path, "intel-rapl:0", 6_000_000)
    assert spent.gpu_watts == pytest.approx([60.0])
    found = spent.document(served=70)
    assert (found["cpu_joules"], found["joules"]) == pytest.approx((5.0, 35.0))
    assert found["qps_per_watt"] == pytest.approx(2.0)


def test_without_a_gpu_the_packages_are_all(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 1_000_000)
    with Energy((), tmp_path) as spent:
        zone(tmp_path, "intel-rapl:0", 3_000_000)
    found = spent.document(served=8)
    assert (found["gpu_watts"], found["qps_per_watt"]) == ([], pytest.approx(4.0))


def test_an_emulated_accelerator_has_no_power_that_anybody_knows(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 1_000_000)
    with Energy((), tmp_path) as spent:
        zone(tmp_path, "intel-rapl:0", 3_000_000)
    found = spent.document(served=8, emulated=True)
    assert found["cpu_joules"] == pytest.approx(2.0)
    assert {found[k] for k in ("gpu_watts", "joules", "qps_per_watt")} == {UNAVAILABLE}


def test_several_trials_are_weighed_by_their_joules() -> None:
    trials = [{"served": 10, "joules": 5.0}, {"served": 10, "joules": 15.0}]
    assert per_watt(trials) == {"qps_per_watt": 1.0}
    assert per_watt([*trials, {"served": 1, "joules": UNAVAILABLE}]) == {"qps_per_watt": UNAVAILABLE}
    assert per_watt([]) == {"qps_per_watt": UNAVAILABLE}


def test_only_the_gpus_that_cuda_sees_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = nvml(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-abc")
    with Energy([0], tmp_path):
        pass
    assert asked == [3, 3, "shut"]
    asked = nvml(monkeypatch)
    with Energy([1], tmp_path):
        pass
    assert asked == ["GPU-abc", "GPU-abc", "shut"]


def broken() -> None:
    raise RuntimeError("driver not loaded")


@pytest.mark.parametrize("missing", ["package", "driver", "device"])
def test_without_nvml_power_is_unavailable(
    missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if missing == "package":
        monkeypatch.setitem(sys.modules, "pynvml", None)  # an import of it fails
    elif missing == "driver":
        nvml(monkeypatch, nvmlInit=broken)
    else:
        nvml(monkeypatch, nvmlDeviceGetHandleByIndex=lambda i: broken())
    with Energy([0], tmp_path) as spent:
        pass
    assert spent.gpu_watts == UNAVAILABLE
    assert spent.document(served=1)["qps_per_watt"] == UNAVAILABLE

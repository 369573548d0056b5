"""Power: the counter's difference over time where there is one, else said to be unavailable."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from deeprecsys.report import power
from deeprecsys.report.power import GpuPower


def fake(**more):
    readings = iter([1_000, 31_000])
    return SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(readings),
        **more,
    )


def test_power_is_energy_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake())
    clock = iter([10.0, 10.5])
    monkeypatch.setattr(power.time, "monotonic", lambda: next(clock))
    with GpuPower() as found:
        pass
    assert found.watts == pytest.approx(60.0)


def test_without_nvml_it_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # an import of it fails
    with GpuPower() as found:
        pass
    assert found.watts == "unavailable"


def test_without_a_driver_it_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    def none():
        raise RuntimeError("driver not loaded")

    broken = fake()
    broken.nvmlInit = none
    monkeypatch.setitem(sys.modules, "pynvml", broken)
    with GpuPower() as found:
        pass
    assert found.watts == "unavailable"

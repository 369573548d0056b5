"""Energy as the machine itself counts it: RAPL, NVML; "unavailable" where there is neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deeprecsys.report.machine import UNAVAILABLE

POWERCAP = Path("/sys/class/powercap")


def rapl_joules(root: Path = POWERCAP) -> float | str:
    """The packages' energy counters together, in joules. They wrap: a fall is no measurement."""
    total = 0.0
    found = False
    for zone in sorted(root.glob("intel-rapl:[0-9]*")):
        if zone.name.count(":") > 1:
            continue  # a part of a package, counted with it
        try:
            total += 1e-6 * float((zone / "energy_uj").read_text())
        except (OSError, ValueError):
            return UNAVAILABLE  # root's alone, as a rule
        found = True
    return total if found else UNAVAILABLE


def nvml_watts() -> list[float] | str:
    """Power of each accelerator, in watts, by nvidia-ml-py where it is installed and there is a driver."""
    try:
        import pynvml
    except ImportError:
        return UNAVAILABLE
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [1e-3 * float(pynvml.nvmlDeviceGetPowerUsage(h)) for h in handles]
    except pynvml.NVMLError:
        return UNAVAILABLE


def readings() -> dict[str, Any]:
    """Both, as JSON values."""
    return {"rapl_joules": rapl_joules(), "nvml_watts": nvml_watts()}

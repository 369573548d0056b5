"""Energy as the machine itself counts it: RAPL, NVML; "unavailable" where there is neither."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

from deeprecsys.machine.record import UNAVAILABLE

POWERCAP = Path("/sys/class/powercap")

Packages = dict[str, tuple[float, float]]
"""Energy counter of each package, joules, and where it wraps."""


def packages(root: Path = POWERCAP) -> Packages | None:
    """RAPL's counters; None where there are none, or only root may read them."""
    found: Packages = {}
    for zone in sorted(root.glob("intel-rapl:[0-9]*")):
        if zone.name.count(":") > 1:
            continue  # a part of a package, counted with it
        try:
            now, wraps = (float((zone / f).read_text()) for f in ("energy_uj", "max_energy_range_uj"))
        except (OSError, ValueError):
            return None
        found[zone.name] = (1e-6 * now, 1e-6 * wraps)
    return found or None


def spent_joules(before: Packages | None, after: Packages | None) -> float | str:
    """Energy of all packages between two readings; each counter may have wrapped once."""
    if before is None or after is None or before.keys() != after.keys():
        return UNAVAILABLE
    spent = {zone: after[zone][0] - before[zone][0] for zone in before}
    return sum(s if s >= 0 else s + after[zone][1] for zone, s in spent.items())


class Energy:
    """The energy that the machine uses between entering and leaving. Attributes are set on leaving.

    Args:
        gpus: CUDA devices whose power counts, by the numbers that this process sees; none by default.
        root: of RAPL's counters.

    Attributes:
        cpu_joules: of all packages, other processes included; "unavailable" without readable counters.
        gpu_watts: mean power of each GPU, from its energy counter; "unavailable" where there is no NVML, no
            such GPU, or no counter.
        seconds: its duration.
    """

    def __init__(self, gpus: Sequence[int] = (), root: Path = POWERCAP) -> None:
        self._gpus, self._root = gpus, root
        self._nvml: Any = None
        self.cpu_joules: float | str = UNAVAILABLE
        self.gpu_watts: list[float] | str = UNAVAILABLE if gpus else []
        self.seconds = 0.0

    def __enter__(self) -> Energy:
        self._nvml = _nvml() if self._gpus else None
        self._gpu_before = self._gpu_joules()
        self._cpu_before = packages(self._root)
        self._began_s = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.monotonic() - self._began_s
        self.cpu_joules = spent_joules(self._cpu_before, packages(self._root))
        before, after = self._gpu_before, self._gpu_joules()
        if before is not None and after is not None and self.seconds > 0:
            self.gpu_watts = [(b - a) / self.seconds for a, b in zip(before, after, strict=True)]
        if self._nvml is not None:
            self._nvml.nvmlShutdown()

    def _gpu_joules(self) -> list[float] | None:
        if self._nvml is None:
            return None
        try:
            handles = [_handle(self._nvml, i) for i in self._gpus]
            return [1e-3 * float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(h)) for h in handles]
        except Exception:  # no such GPU, no counter, no permission
            return None

    def document(self, served: int, emulated: bool = False) -> dict[str, Any]:
        """The JSON of a trial's energy.

        Args:
            served: queries.
            emulated: an emulated accelerator took part, whose power is unknown.
        """
        watts = UNAVAILABLE if emulated else self.gpu_watts
        joules: float | str = UNAVAILABLE
        if isinstance(self.cpu_joules, float) and isinstance(watts, list):
            joules = self.cpu_joules + sum(watts) * self.seconds
        return {
            "seconds": self.seconds,
            "cpu_joules": self.cpu_joules,
            "gpu_watts": watts,
            "joules": joules,
            "served": served,
            **per_watt([{"served": served, "joules": joules}]),
        }


def per_watt(trials: Sequence[Mapping[str, Any]]) -> dict[str, float | str]:
    """Queries per second per watt, which is queries per joule, over trials of which `served` and `joules`
    are known."""
    joules = [t["joules"] for t in trials]
    if not joules or not all(isinstance(j, float) for j in joules) or sum(joules) <= 0:
        return {"qps_per_watt": UNAVAILABLE}
    return {"qps_per_watt": sum(t["served"] for t in trials) / sum(joules)}


def over(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The documents of several trials in one; None of none."""
    if not trials:
        return None
    joules = [t["joules"] for t in trials]
    known = all(isinstance(j, float) for j in joules)
    return {
        "seconds": sum(t["seconds"] for t in trials),
        "joules": sum(joules) if known else UNAVAILABLE,
        "served": sum(t["served"] for t in trials),
        **per_watt(trials),
    }


def _nvml() -> Any:
    """NVML, ready; None where there is no package, no driver or no permission."""
    try:
        nvml = import_module("pynvml")
        nvml.nvmlInit()
    except Exception:
        return None
    return nvml


def _handle(nvml: Any, device: int) -> Any:
    """NVML's handle of a CUDA device: NVML numbers all GPUs, CUDA only those that it may see."""
    seen = [w.strip() for w in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if w.strip()]
    name = seen[device] if seen else str(device)
    return (
        nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else nvml.nvmlDeviceGetHandleByUUID(name)
    )

"""What a GPU draws, by NVML; "unavailable" where that is not there."""

from __future__ import annotations

import time
from importlib import import_module
from types import TracebackType
from typing import Any

from deeprecsys.report.machine import UNAVAILABLE


class GpuPower:
    """Mean power of one GPU between entering and leaving, from its energy counter.

    Attributes:
        watts: after leaving; "unavailable" where there is no NVML, no such GPU, or no counter.
    """

    def __init__(self, index: int = 0) -> None:
        self._index = index
        self._nvml: Any = None
        self.watts: float | str = UNAVAILABLE

    def __enter__(self) -> GpuPower:
        try:
            nvml = import_module("pynvml")
            nvml.nvmlInit()
        except Exception:  # no package, no driver, no permission: all the same to a reader
            return self
        try:
            self._handle = nvml.nvmlDeviceGetHandleByIndex(self._index)
            self._began_mj = nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        except Exception:
            nvml.nvmlShutdown()
            return self
        self._nvml, self._began_s = nvml, time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._nvml is None:
            return
        energy_mj = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) - self._began_mj
        took_s = time.monotonic() - self._began_s
        self._nvml.nvmlShutdown()
        if took_s > 0:
            self.watts = 1e-3 * energy_mj / took_s

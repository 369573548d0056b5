"""Engines for the workers of a test's accelerator; named by import path."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

from deeprecsys.engine import Assembly, SliceView
from deeprecsys.engine.cuda import DeviceEngine


class OnCpu(DeviceEngine):
    """The CUDA engine's own classes, on the CPU device, in single precision."""

    def __init__(self, assembly: Assembly) -> None:
        super().__init__(assembly, "cpu", precision="fp32", largest=256)


class Slow(OnCpu):
    """A batch takes 20 ms more."""

    def score(self, slices: Sequence[SliceView]) -> None:
        time.sleep(0.02)
        super().score(slices)


class Deadly(OnCpu):
    """The first batch kills the process."""

    def score(self, slices: Sequence[SliceView]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

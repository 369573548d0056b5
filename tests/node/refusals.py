"""Engines that cannot be built, named to the node by import path; apart from `faults`, which needs torch."""

from __future__ import annotations

import os
import signal

from deeprecsys.engine import Assembly


class RefusingEngine:
    """Cannot be built."""

    def __init__(self, assembly: Assembly) -> None:
        raise RuntimeError("no such instruction")


class CrashingEngine:
    """Kills its process while it is built."""

    def __init__(self, assembly: Assembly) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

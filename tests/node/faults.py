"""Engines that misbehave on demand; named to the node by import path."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

from deeprecsys.engine import SliceView
from tests.node.plain import PlainEngine

DEADLY_SIZE = 13


class DeadlyEngine(PlainEngine):
    """Plain, but a slice of exactly `DEADLY_SIZE` items kills the worker."""

    def score(self, slices: Sequence[SliceView]) -> None:
        if any(s.stop - s.start == DEADLY_SIZE for s in slices):
            os.kill(os.getpid(), signal.SIGSEGV)
        super().score(slices)


class LonelyEngine(PlainEngine):
    """Plain, but a batch of several slices kills the worker."""

    def score(self, slices: Sequence[SliceView]) -> None:
        if len(slices) > 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        super().score(slices)


class SlowEngine(PlainEngine):
    """Plain, and a batch takes 0.2 s more."""

    def score(self, slices: Sequence[SliceView]) -> None:
        time.sleep(0.2)
        super().score(slices)

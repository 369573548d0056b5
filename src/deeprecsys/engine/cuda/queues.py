"""Streams, events and pinned memory of a CUDA device; on the CPU all of it in order, at once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch
from torch import Tensor


class Mark:
    """A point in a queue; where nothing is queued, a moment that has passed already."""

    def __init__(self) -> None:
        self.at_s = time.perf_counter()

    def wait(self) -> None:
        """Return once the device has passed it."""

    def since_s(self, earlier: Mark) -> float:
        """Device seconds from an earlier mark; both have passed, and marks are timed."""
        return self.at_s - earlier.at_s


class CudaMark(Mark):
    """An event of a stream."""

    def __init__(self, event: torch.cuda.Event) -> None:
        self.event = event

    def wait(self) -> None:
        self.event.synchronize()

    def since_s(self, earlier: Mark) -> float:
        assert isinstance(earlier, CudaMark)
        return float(1e-3 * earlier.event.elapsed_time(self.event))


class Queues:
    """What work is put into: `copy_in`, `compute` and `copy_out` run at the same time on a CUDA device.

    This class has no queues: work is done as it is issued. For tests without a GPU.
    """

    def host(self, words: int) -> Tensor:
        """Memory of the host that the device reads by itself: int32 [words]."""
        return torch.zeros(words, dtype=torch.int32)

    @contextlib.contextmanager
    def on(self, queue: str, after: Mark | None = None) -> Iterator[None]:
        """What is issued within goes to that queue, and runs once `after` has passed."""
        yield

    def mark(self, queue: str) -> Mark:
        """A mark behind what the queue holds."""
        return Mark()


class CudaQueues(Queues):
    """Three streams of one device; `timed` marks measure time, which costs a little more."""

    def __init__(self, device: torch.device, timed: bool = False) -> None:
        self._timed = timed
        self.streams = {
            q: torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            for q in ("copy_in", "compute", "copy_out")
        }

    def host(self, words: int) -> Tensor:
        return torch.zeros(words, dtype=torch.int32, pin_memory=True)

    @contextlib.contextmanager
    def on(self, queue: str, after: Mark | None = None) -> Iterator[None]:
        stream = self.streams[queue]
        if isinstance(after, CudaMark):
            stream.wait_event(after.event)
        with torch.cuda.stream(stream):
            yield

    def mark(self, queue: str) -> CudaMark:
        event = torch.cuda.Event(enable_timing=self._timed)  # type: ignore[no-untyped-call]
        event.record(self.streams[queue])
        return CudaMark(event)


def queues(device: torch.device, timed: bool = False) -> Queues:
    """The queues of a device."""
    return CudaQueues(device, timed) if device.type == "cuda" else Queues()

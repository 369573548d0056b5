"""Keeping the memory of an idle worker resident in a virtual machine.

Under a hypervisor a page that this process has mapped may still be absent from the page tables that the
processor goes by: its first touch in a process, or after some seconds without one, leaves the machine. At
random rows that costs microseconds each, and the first batches after a pause take several times their time
(docs/design/0004-shared-memory.md). In order it costs a small part of that. So a worker walks over its tables
before it is ready and then every few seconds, in pieces, while it has no request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from deeprecsys.engine.isa import cpu_flags
from deeprecsys.node.runtime.cores import usual_weight
from deeprecsys.node.runtime.segment import Segment

PAGE = 4096
PIECE = 4 << 20
"""Bytes that are read between two checks for a request: some 20 µs where all are resident."""
EVERY_S = 4.0
MOST_SHARE = 0.02
"""Largest share of a core's time that walks take: very large tables are walked more rarely."""


def virtual() -> bool:
    """Whether this machine runs under a hypervisor."""
    return "hypervisor" in cpu_flags()


def resident(segments: Callable[[], Iterable[Segment]]) -> PageWalker | None:
    """A walker that has walked once; None on a physical machine, where mapped pages stay resident."""
    if not virtual():
        return None
    walker = PageWalker(segments)
    walker.walk()
    return walker


class PageWalker:
    """Reads a byte of every page of some segments, every few seconds.

    Args:
        segments: returns those that this process reads now.
        clock: seconds, rising.
        cpu: CPU seconds of this process: next to a busy worker a walk takes long and costs little.
    """

    def __init__(
        self,
        segments: Callable[[], Iterable[Segment]],
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self._segments, self._clock, self._cpu = segments, clock, cpu
        self._pieces: Iterator[None] | None = None
        self._due_s = clock()
        self._spent_s = 0.0

    @property
    def wait_s(self) -> float:
        """Seconds until there is something to walk."""
        return 0.0 if self._pieces else max(self._due_s - self._clock(), 0.0)

    def walk(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Go on where the last walk was stopped, to the end or until `stop()` is true between two pieces."""
        began = self._cpu()
        self._pieces = self._pieces or self._pass()
        with usual_weight():
            stopped = any(stop() for _ in self._pieces)
        self._spent_s += self._cpu() - began
        if not stopped:
            self._due_s = self._clock() + max(EVERY_S, self._spent_s / MOST_SHARE)
            self._pieces, self._spent_s = None, 0.0

    def forget(self) -> None:
        """Abandon a walk under way: a segment is about to be closed."""
        self._pieces = None

    def _pass(self) -> Iterator[None]:
        for segment in list(self._segments()):
            pages = segment.array(np.uint8, (segment.size,))[::PAGE]
            step = PIECE // PAGE
            for at in range(0, len(pages), step):
                pages[at : at + step].max()
                yield

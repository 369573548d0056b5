"""Rows of shared tables are written while workers read them, and no read meets half of a row.

Readers and the one writer exclude each other by words in shared memory (docs/design/0025-fresh-weights.md): a
reader raises its own word, and reads if the writer's is down; the writer raises its word, and writes if all
readers' are down. A reader pays two stores and a load, for the writer orders both sides (`membarrier`). On
x86-64 alone.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from deeprecsys.core.errors import InputError, NodeError

_MEMBARRIER, _EVERYWHERE, _REGISTER = 324, 1 << 1, 1 << 2  # x86-64's number; commands *_GLOBAL_EXPEDITED
LOOK_S = 2e-5
"""How long a side sleeps between two looks at the other's words."""
TRIES, PAUSE_S = 50, 1e-4
"""How often the writer looks for a moment in which no worker happens to read, and its pause in between."""
HOLD_S, GIVE_UP_S = 0.05, 5.0
"""How long it then holds back readers while it waits for others to end, and how long it tries."""

_libc = ctypes.CDLL(None, use_errno=True)


def _membarrier(command: int) -> int:
    if platform.machine() != "x86_64":
        return errno.ENOSYS
    found: int = _libc.syscall(ctypes.c_long(_MEMBARRIER), command, 0, 0)
    return ctypes.get_errno() if found < 0 else 0


class RowReader:
    """A worker's side: to be held while rows are read.

    Args:
        own: a word that this reader alone writes; writing: the writer's word.
    """

    __slots__ = ("_own", "_writing")

    def __init__(self, own: memoryview, writing: memoryview) -> None:
        self._own, self._writing = own, writing
        _membarrier(_REGISTER)  # where that fails, there is no writer

    def __enter__(self) -> None:
        own, writing = self._own, self._writing
        own[0] = 1
        while writing[0]:
            own[0] = 0
            while writing[0]:
                time.sleep(LOOK_S)
            own[0] = 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._own[0] = 0


class RowWriter:
    """The node's side. One thread at a time.

    Args:
        readers: the words of all readers; writing: the writer's own.
    """

    def __init__(self, readers: Iterable[memoryview], writing: memoryview) -> None:
        self._readers, self._writing = list(readers), writing
        self._refused = _membarrier(_REGISTER)

    def check(self) -> None:
        """Raise InputError where rows cannot be written while they are read."""
        if self._refused:
            raise InputError(
                "rows: expected Linux on x86-64 with membarrier, which writes of rows need, got "
                f"{platform.machine()}, error {errno.errorcode.get(self._refused, self._refused)}"
            )

    def write(self, rows: Callable[[], None]) -> None:
        """Call `rows` while no worker reads: at first as soon as none happens to, then holding them back.

        Raises:
            NodeError: there was no such moment; nothing was written.
        """
        until, attempt = time.monotonic() + GIVE_UP_S, 0
        while time.monotonic() < until:
            hold_s = HOLD_S if attempt >= TRIES else 0.0
            self._writing[0] = 1
            try:
                _membarrier(_EVERYWHERE)
                if self._alone(hold_s):
                    return rows()
            finally:
                self._writing[0] = 0
            attempt += 1
            time.sleep(max(hold_s, PAUSE_S))  # one that hangs must not keep the others from working
        raise NodeError(
            f"rows: expected a moment in which no worker reads rows, got none within {GIVE_UP_S:g} s"
        )

    def _alone(self, hold_s: float) -> bool:
        """Whether no worker reads, or none does within a time."""
        until = time.monotonic() + hold_s
        while any(own[0] for own in self._readers):
            if time.monotonic() >= until:
                return False
            time.sleep(LOOK_S)
        return True

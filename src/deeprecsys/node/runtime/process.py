"""One worker process of a node, from its start to its end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

from deeprecsys.node.runtime.mailbox import Mailbox, SliceAddress

KILL_S = 5.0
"""How long the end of a killed process is waited for."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(eq=False, slots=True)
class Post:
    """An execution slot of a device, the cores of its process, and the process that fills it."""

    device: str
    worker: int
    cores: list[int]
    process: WorkerProcess | None = None


@dataclass(eq=False, slots=True)
class Slot:
    """Where a process can be: its mailbox, and the eventfd that signals a request in it."""

    index: int
    box: Mailbox
    request_event: int


class WorkerProcess:
    """A worker process; starts it.

    Args:
        slot: its mailbox, which is cleared; home: the post that it is started for. It has that post's cores
            and, on an accelerator, its device.
        generation: of the model versions that it holds.
        command: arguments of the interpreter; fds: descriptors that it inherits.
        threads: compute threads; environment: added to this process's.
        timeout_s: by when it must be ready.

    Raises:
        OSError: the machine has no descriptor, process or memory left for it.

    Attributes:
        post: the one that it fills; ready: whether it can score.
        sent: sequence number of the request that it works on; 0 where it has none.
        dropping: whether that request is to drop a version; drops: versions to drop when it is idle.
        delayed: a batch that waits for the end of a drop.
    """

    def __init__(
        self,
        slot: Slot,
        home: Post,
        generation: int,
        command: Sequence[str],
        fds: Sequence[int],
        *,
        threads: int,
        environment: Mapping[str, str],
        timeout_s: float,
    ) -> None:
        self.slot, self.box, self.home, self.generation = slot, slot.box, home, generation
        self.deadline_s = monotonic() + timeout_s
        self.post: Post | None = None
        self.ready = self.dropping = False
        self.sent = 0
        self.drops: list[int] = []
        self.delayed: tuple[Sequence[SliceAddress], int] | None = None
        slot.box.clear()
        if select.select([slot.request_event], (), (), 0)[0]:  # a request that was never read
            os.eventfd_read(slot.request_event)
        # stderr goes to a nameless file, not a pipe, which would have to be read for the worker to go on.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process ends
        with contextlib.ExitStack() as undo:
            undo.callback(self._stderr.close)
            self._popen = subprocess.Popen(
                [sys.executable, *command],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                env=os.environ | dict.fromkeys(_THREADS, str(threads)) | dict(environment),
                # A terminal's Ctrl-C is for the node, which ends its workers itself; and precedence that a
                # worker takes (`cores.go_first`) is its session's alone.
                start_new_session=True,
            )
            undo.callback(self._kill)
            self.pid = self._popen.pid
            self.pidfd = os.pidfd_open(self.pid)
            undo.pop_all()

    @property
    def idle(self) -> bool:
        """Whether it has no request, and none waits for it."""
        return not self.sent and not self.delayed

    @property
    def begun(self) -> bool:
        """Whether it has begun what it was sent."""
        return bool(self.sent) and self.box.begun == self.sent

    def pin(self, cores: Sequence[int]) -> None:
        """Pin all its threads to cores."""
        with contextlib.suppress(OSError):  # it may have died
            os.sched_setaffinity(self.pid, cores)  # even where no descriptor is left to list its threads
            for thread in os.listdir(f"/proc/{self.pid}/task"):
                os.sched_setaffinity(int(thread), cores)

    def last_line(self) -> str:
        """The last line that the dead process left on its standard error, and how it ended."""
        code = self._popen.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        ended = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        return f"{lines[-1]} ({ended})" if lines else ended

    @property
    def killed(self) -> bool:
        """Whether the dead process was ended from outside, as the kernel does when memory is short."""
        return self._popen.wait() in (-signal.SIGKILL, -signal.SIGTERM)

    def _kill(self) -> None:
        self._popen.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that waits for a device dies when it wakes
            self._popen.wait(KILL_S)

    def end(self) -> None:
        """Kill and reap. Scoring is pure: there is nothing to save."""
        self._kill()
        self.box.reading[0] = 0  # it may have died within
        os.close(self.pidfd)
        self._stderr.close()

"""The worker processes of a node: started, rung, listened to, buried when they die."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, NamedTuple, Protocol

from deeprecsys.node.runtime import mailbox
from deeprecsys.node.runtime.mailbox import Mailbox, Reply, SliceAddress


class Replied(NamedTuple):
    """A worker finished its batch."""

    worker: int
    reply: Reply


class Up(NamedTuple):
    """A worker is ready."""

    worker: int


class Down(NamedTuple):
    """A worker died.

    Attributes:
        why: its last words.
        starting: whether it had not been ready yet.
        refused: whether it said itself that it cannot start: to try again would be no use.
    """

    worker: int
    why: str
    starting: bool = False
    refused: bool = False


News = Replied | Up | Down


@dataclass(slots=True)
class _Process:
    popen: subprocess.Popen[bytes]
    pidfd: int
    stderr: IO[bytes]

    def last_words(self) -> str:
        """The last line that the process left on its standard error, and how it ended."""
        self.stderr.seek(0)
        lines = self.stderr.read().decode("utf-8", "replace").strip().splitlines()
        code = self.popen.returncode
        ended = f"killed by signal {-code}" if code and code < 0 else f"exit status {code}"
        return f"{lines[-1]} ({ended})" if lines else ended

    def end(self) -> None:
        """Kill and reap. Scoring is pure: there is nothing to save."""
        self.popen.kill()
        self.popen.wait()
        os.close(self.pidfd)
        self.stderr.close()


class Launcher(Protocol):
    """Says how a worker process is started."""

    def __call__(self, worker: int, bell: int, done: int) -> tuple[Sequence[str], Sequence[int]]:
        """The command, and the descriptors that it needs besides `bell` and `done` (eventfds)."""


class Workers:
    """Worker processes and their mailboxes. Whoever uses it decides what runs, and what follows a death.

    Args:
        boxes: where a mailbox of each worker lies.
        launch: how one is started.
        threads: compute threads per worker, for its environment; env: what else goes there.
    """

    def __init__(
        self,
        boxes: Sequence[memoryview],
        launch: Launcher,
        threads: int,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._boxes = [Mailbox(words) for words in boxes]
        self._launch, self._threads, self._env = launch, threads, env or {}
        self._processes: list[_Process | None] = [None] * len(boxes)
        self._seq = 0
        self._sent: dict[int, int] = {}  # worker -> sequence number it is working on
        self._starting: set[int] = set()
        self._bells = [os.eventfd(0) for _ in boxes]
        self._done = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._deaths = select.epoll()
        self.listen = [self._done, self._deaths.fileno()]
        """Descriptors that can be read when there is news."""
        self.deaths = 0

    def __len__(self) -> int:
        return len(self._boxes)

    @property
    def pids(self) -> list[int]:
        return [p.popen.pid for p in self._processes if p]

    @property
    def pid_of(self) -> Mapping[int, int]:
        """The process of each worker that has one."""
        return {i: p.popen.pid for i, p in enumerate(self._processes) if p}

    @property
    def starting(self) -> set[int]:
        """Workers that have a process which is not ready yet."""
        return self._starting

    def spawn(self, index: int) -> None:
        """Start a worker that has no process."""
        self._boxes[index].clear()
        _drain(self._bells[index])
        command, fds = self._launch(index, self._bells[index], self._done)
        threads = str(self._threads)
        env = os.environ | dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), threads
        )
        env |= self._env
        # stderr goes to a nameless file, not a pipe: nobody has to read it for the worker to go on.
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process ends
        popen = subprocess.Popen(
            [sys.executable, *command],
            pass_fds=[self._bells[index], self._done, *fds],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=env,
            # A terminal's Ctrl-C is for the node, which ends its workers itself; and precedence that a
            # worker takes (`cores.go_first`) is its session's alone.
            start_new_session=True,
        )
        pidfd = os.pidfd_open(popen.pid)
        self._processes[index] = _Process(popen, pidfd, stderr)
        self._deaths.register(pidfd, select.EPOLLIN)
        self._starting.add(index)

    def post(self, worker: int, parts: Sequence[SliceAddress], model: int = 0) -> int:
        """Hand a batch to a worker that has none; returns its sequence number."""
        self._seq += 1
        self._sent[worker] = self._seq
        self._boxes[worker].post(self._seq, tuple(parts), model)
        os.eventfd_write(self._bells[worker], 1)
        return self._seq

    def news(self, timeout_s: float) -> list[News]:
        """What has happened; sleeps at most `timeout_s` for something to happen."""
        ready, _, _ = select.select(self.listen, (), (), max(timeout_s, 0.0))
        if not ready:
            return []
        news: list[News] = []
        if self._done in ready:
            os.eventfd_read(self._done)
            boxes = self._boxes
            for worker, seq in list(self._sent.items()):
                if boxes[worker].done == seq:
                    del self._sent[worker]
                    news.append(Replied(worker, boxes[worker].reply()))
            for worker in list(self._starting):
                if boxes[worker].state == mailbox.READY:
                    self._starting.discard(worker)
                    news.append(Up(worker))
        if len(ready) > 1 or not news:
            news += [self._bury(fd) for fd, _ in self._deaths.poll(0)]
        return news

    def _bury(self, pidfd: int) -> Down:
        """Reap a dead worker."""
        index = next(i for i, p in enumerate(self._processes) if p and p.pidfd == pidfd)
        process = self._processes[index]
        assert process is not None
        process.popen.wait()
        refused = self._boxes[index].state == mailbox.REFUSED
        why = self._boxes[index].text if refused else process.last_words()
        starting = index in self._starting
        self.end(index)
        self.deaths += 1
        return Down(index, why, starting, refused)

    def said(self, index: int) -> str:
        """The text that a worker left in its mailbox."""
        return self._boxes[index].text

    def end(self, index: int) -> None:
        """End a worker's process, whatever it is doing; nothing is heard of it afterwards."""
        process = self._processes[index]
        if process is None:
            return
        self._deaths.unregister(process.pidfd)
        process.end()
        self._processes[index] = None
        self._sent.pop(index, None)
        self._starting.discard(index)

    def close(self) -> None:
        """End all workers and drop all descriptors."""
        for index in range(len(self)):
            self.end(index)
        self._deaths.close()
        for fd in (*self._bells, self._done):
            os.close(fd)
        self._bells = []


def _drain(eventfd: int) -> None:
    """Set a blocking eventfd's counter to 0."""
    if select.select([eventfd], (), (), 0)[0]:
        os.eventfd_read(eventfd)

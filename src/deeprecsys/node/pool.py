"""The worker processes of a node: started, rung, listened to, replaced when they die."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import IO, NamedTuple

from deeprecsys.core.errors import InputError, NodeError
from deeprecsys.core.policy import CPU, GPU
from deeprecsys.node import mailbox
from deeprecsys.node.mailbox import Mailbox, Part, Reply
from deeprecsys.node.memory import NodeMemory
from deeprecsys.node.worker import WorkerSpec

START_TIMEOUT_S = 120.0
ACCELERATOR_START_TIMEOUT_S = 480.0  # it compiles kernels and captures a graph for every bucket
MAX_FAILED_STARTS = 2


class Replied(NamedTuple):
    """A worker finished its batch."""

    worker: int
    reply: Reply


class Up(NamedTuple):
    """A worker is ready."""

    worker: int


class Down(NamedTuple):
    """A worker died, and is being replaced."""

    worker: int
    why: str


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


class WorkerPool:
    """A fixed number of worker processes over one node memory.

    Args:
        memory: the node's shared memory.
        cores: the cores that each worker is pinned to; its length is the number of workers.
        engine: engine name; precision: of the engine; threads: compute threads per worker.
        accelerators: engines of the `gpu` workers, which are the last of the workers.

    Raises:
        NodeError: a worker could not start, or could not be replaced.
        InputError: the engine refuses its arguments or the precision.
    """

    def __init__(
        self,
        memory: NodeMemory,
        cores: Sequence[list[int]],
        engine: str,
        precision: str,
        threads: int,
        accelerators: Sequence[str] = (),
    ) -> None:
        self._memory = memory
        self._cores = cores
        self._precision, self._threads = precision, threads
        cpu = len(cores) - len(accelerators)
        self._engines = [*[engine] * cpu, *accelerators]
        self.workers = {CPU: cpu} | ({GPU: len(accelerators)} if accelerators else {})
        """How many workers each device has; those of `cpu` come first."""
        self._boxes = [Mailbox(memory.mailbox(i)) for i in range(len(cores))]
        self._processes: list[_Process | None] = [None] * len(cores)
        self._failed_starts = [0] * len(cores)
        self._seq = 0
        self._sent: dict[int, int] = {}  # worker -> sequence number it is working on
        self._starting: set[int] = set()
        self._bells = [os.eventfd(0) for _ in cores]
        self._done = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._deaths = select.epoll()
        self._listen = [self._done, self._deaths.fileno()]
        self.deaths = 0

    def __len__(self) -> int:
        return len(self._cores)

    def number(self, device: str, worker: int) -> int:
        """The pool's number for a worker of a device."""
        return worker if device == CPU else self.workers[CPU] + worker

    def place(self, number: int) -> tuple[str, int]:
        """Device and worker of a number."""
        cpu = self.workers[CPU]
        return (CPU, number) if number < cpu else (GPU, number - cpu)

    @property
    def pids(self) -> list[int]:
        return [p.popen.pid for p in self._processes if p]

    def start(self, progress: Callable[[str, float], None] | None = None) -> None:
        """Start all workers and wait until they are ready."""
        for i in range(len(self)):
            self._spawn(i)
        patience_s = ACCELERATOR_START_TIMEOUT_S if GPU in self.workers else START_TIMEOUT_S
        deadline = monotonic() + patience_s
        while self._starting:
            if monotonic() > deadline:
                raise NodeError(f"worker {min(self._starting)}: not ready within {patience_s:.0f} s")
            self.news(0.2)
            if progress:
                progress("starting workers", 1 - len(self._starting) / len(self))

    def _spawn(self, index: int) -> None:
        spec = WorkerSpec(
            parent=os.getpid(),
            index=index,
            cores=self._cores[index],
            bell=self._bells[index],
            done=self._done,
            fds=self._memory.fds,
            plan=self._memory.plan,
            engine=self._engines[index],
            precision=self._precision,
            threads=self._threads,
        )
        self._boxes[index].clear()
        _drain(self._bells[index])
        threads = str(self._threads)
        env = os.environ | dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), threads
        )
        # stderr goes to a nameless file, not a pipe: nobody has to read it for the worker to go on.
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process ends
        popen = subprocess.Popen(
            [sys.executable, "-m", "deeprecsys.node.worker", spec.dump()],
            pass_fds=[spec.bell, spec.done, *spec.fds.values()],
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

    def post(self, worker: int, parts: Sequence[Part]) -> int:
        """Hand a batch to a worker that has none; returns its sequence number."""
        self._seq += 1
        self._sent[worker] = self._seq
        self._boxes[worker].post(self._seq, tuple(parts))
        os.eventfd_write(self._bells[worker], 1)
        return self._seq

    def news(self, timeout_s: float) -> list[News]:
        """What has happened; sleeps at most `timeout_s` for something to happen."""
        ready, _, _ = select.select(self._listen, (), (), max(timeout_s, 0.0))
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
                    self._failed_starts[worker] = 0
                    news.append(Up(worker))
        if len(ready) > 1 or not news:
            news += [self._bury(fd) for fd, _ in self._deaths.poll(0)]
        return news

    def _bury(self, pidfd: int) -> Down:
        """Reap a dead worker and start its replacement."""
        index = next(i for i, p in enumerate(self._processes) if p and p.pidfd == pidfd)
        process = self._processes[index]
        assert process is not None
        self._deaths.unregister(pidfd)
        process.popen.wait()
        refused = self._boxes[index].state == mailbox.REFUSED
        why = self._boxes[index].text if refused else process.last_words()
        process.end()
        self._processes[index] = None
        self._sent.pop(index, None)
        self.deaths += 1
        if index in self._starting:
            self._starting.discard(index)
            self._failed_starts[index] += 1
            if refused and why.startswith("InputError: "):
                raise InputError(why.removeprefix("InputError: "))
            if refused or self._failed_starts[index] >= MAX_FAILED_STARTS:
                raise NodeError(f"worker {index} cannot start: {why}")
        self._spawn(index)
        return Down(index, why)

    def close(self) -> None:
        """End all workers and drop all descriptors."""
        for process in self._processes:
            if process:
                process.end()
        self._processes = [None] * len(self)
        self._deaths.close()
        for fd in (*self._bells, self._done):
            os.close(fd)
        self._bells = []


def _drain(eventfd: int) -> None:
    """Set a blocking eventfd's counter to 0."""
    if select.select([eventfd], (), (), 0)[0]:
        os.eventfd_read(eventfd)

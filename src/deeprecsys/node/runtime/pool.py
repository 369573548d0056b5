"""The workers of trials: a fixed number, all started before, replaced when they die."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from time import monotonic

from deeprecsys.core.errors import InputError, NodeError
from deeprecsys.core.policy import CPU, GPU
from deeprecsys.engine.isa import DEFAULT, environment
from deeprecsys.node.runtime.memory import NodeMemory
from deeprecsys.node.runtime.processes import Down, News, Replied, Up, Workers
from deeprecsys.node.runtime.worker import WorkerSpec

__all__ = ["Down", "News", "Replied", "Up", "WorkerPool"]

START_TIMEOUT_S = 120.0
ACCELERATOR_START_TIMEOUT_S = 480.0  # it compiles kernels and captures a graph for every bucket
MAX_FAILED_STARTS = 2


class WorkerPool(Workers):
    """A fixed number of worker processes over one node memory.

    Args:
        memory: the node's shared memory.
        cores: the cores that each worker is pinned to; its length is the number of workers.
        engine: engine name; precision: of the engine; threads: compute threads per worker.
        isa: instructions that the workers' libraries are held to (`engine.isa`).
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
        isa: str = DEFAULT,
        accelerators: Sequence[str] = (),
    ) -> None:
        cpu = len(cores) - len(accelerators)
        engines = [*[engine] * cpu, *accelerators]
        self.workers = {CPU: cpu} | ({GPU: len(accelerators)} if accelerators else {})
        """How many workers each device has; those of `cpu` come first."""

        def launch(worker: int, bell: int, done: int) -> tuple[Sequence[str], Sequence[int]]:
            spec = WorkerSpec(
                parent=os.getpid(),
                index=worker,
                cores=cores[worker],
                bell=bell,
                done=done,
                fds=memory.fds,
                plan=memory.plan,
                engine=engines[worker],
                precision=precision,
                threads=threads,
            )
            return ["-m", "deeprecsys.node.runtime.worker", spec.dump()], list(spec.fds.values())

        super().__init__([memory.mailbox(i) for i in range(len(cores))], launch, threads, environment(isa))
        self.arithmetic = ""
        """What rows and layers are computed in, in the engine's words; empty where it says nothing."""
        self._failed_starts = [0] * len(cores)

    def number(self, device: str, worker: int) -> int:
        """The pool's number for a worker of a device."""
        return worker if device == CPU else self.workers[CPU] + worker

    def place(self, number: int) -> tuple[str, int]:
        """Device and worker of a number."""
        cpu = self.workers[CPU]
        return (CPU, number) if number < cpu else (GPU, number - cpu)

    def start(self, progress: Callable[[str, float], None] | None = None) -> None:
        """Start all workers and wait until they are ready."""
        for i in range(len(self)):
            self.spawn(i)
        patience_s = ACCELERATOR_START_TIMEOUT_S if GPU in self.workers else START_TIMEOUT_S
        deadline = monotonic() + patience_s
        while self.starting:
            if monotonic() > deadline:
                raise NodeError(f"worker {min(self.starting)}: not ready within {patience_s:.0f} s")
            self.news(0.2)
            if progress:
                progress("starting workers", 1 - len(self.starting) / len(self))

    def news(self, timeout_s: float) -> list[News]:
        """What has happened; who died is being replaced."""
        news = super().news(timeout_s)
        for happened in news:
            match happened:
                case Up(worker):
                    self._failed_starts[worker] = 0
                    if worker < self.workers[CPU]:
                        self.arithmetic = self.said(worker)
                case Down():
                    self._replace(happened)
        return news

    def _replace(self, down: Down) -> None:
        index = down.worker
        if down.starting:
            self._failed_starts[index] += 1
            cannot_start(index, down, self._failed_starts[index])
        self.spawn(index)


def cannot_start(worker: int, down: Down, failed_starts: int) -> None:
    """Raise the error that says why a worker cannot start, if to try again would be no use."""
    if down.refused and down.why.startswith("InputError: "):
        raise InputError(down.why.removeprefix("InputError: "))
    if down.refused or failed_starts >= MAX_FAILED_STARTS:
        raise NodeError(f"worker {worker} cannot start: {down.why}")

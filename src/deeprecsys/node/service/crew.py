"""The worker processes of a service: replaced in the background, spares ready, renewed one by one.

The dispatcher knows *posts*, one per worker that scores at a time. A process stands at a post, or it is a
spare, or it is starting. When a process dies, a spare takes its post at once and another one is started.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Sequence

from deeprecsys.node.runtime.mailbox import WORDS, SliceAddress
from deeprecsys.node.runtime.processes import Down, News, Replied, Up, Workers
from deeprecsys.node.runtime.segment import Segment
from deeprecsys.node.service.arena import VersionSpec
from deeprecsys.node.service.worker import CrewSpec

log = logging.getLogger("deeprecsys.serve")

MAX_FAILED_STARTS = 2
"""Processes that failed to start one after the other: then no more are started for a while."""


class Crew:
    """Keeps a process at every post.

    Args:
        cores: that each post is pinned to; its length is the number of posts.
        editions: what a process that is started now must hold.
        threads: compute threads per worker.
        spares: processes that stand by.
    """

    def __init__(
        self,
        cores: Sequence[list[int]],
        editions: Callable[[], Sequence[VersionSpec]],
        threads: int,
        spares: int,
    ) -> None:
        self._cores, self._editions, self._threads, self._spares = cores, editions, threads, spares
        boxes = len(cores) + max(spares, 1)  # one more than there are posts, to renew them one by one
        self._mail = Segment.create("mail", boxes * WORDS * 8)
        words = self._mail.words()
        self._workers = Workers(
            [words[i * WORDS : (i + 1) * WORDS] for i in range(boxes)], self._launch, threads
        )
        self._at: list[int | None] = [None] * len(cores)  # post -> process
        self._busy: set[int] = set()  # posts with a batch
        self._up: set[int] = set()  # processes that are ready, at a post or spare
        self._age: dict[int, int] = {}  # process -> the generation it was started in
        self._generation = 0
        self._chores: dict[int, list[int]] = {}  # process -> editions to drop when it is idle
        self._chore: set[int] = set()  # processes that are dropping one
        self._delayed: dict[int, tuple[Sequence[SliceAddress], int]] = {}  # batches for those
        self._settled = False  # nothing is to be reconciled until something but a reply happens
        self._failed = 0
        self.problem = ""
        """Why no process is started any more; empty when all is well."""

    def _launch(self, worker: int, bell: int, done: int) -> tuple[Sequence[str], Sequence[int]]:
        spec = CrewSpec(
            parent=os.getpid(),
            index=worker,
            boxes=len(self._workers),
            cores=self._cores[worker % len(self._cores)],
            bell=bell,
            done=done,
            mail=self._mail.fd,
            threads=self._threads,
            gentle=self.alive == len(self),
            editions=tuple(self._editions()),
        )
        return ["-m", "deeprecsys.node.service.worker", spec.dump()], spec.fds

    def __len__(self) -> int:
        return len(self._cores)

    @property
    def alive(self) -> int:
        """Posts that have a process."""
        return sum(p is not None for p in self._at)

    @property
    def spares(self) -> int:
        """Processes that are ready and have no post."""
        return len(self._up - set(self._at))

    @property
    def listen(self) -> list[int]:
        return self._workers.listen

    @property
    def pids(self) -> list[int]:
        """Of the processes at posts."""
        return [self._workers.pid_of[p] for p in self._at if p is not None]

    @property
    def all_pids(self) -> list[int]:
        return self._workers.pids

    @property
    def renewed(self) -> bool:
        """Whether every post's process was started since the last `renew`."""
        return all(p is not None and self._age[p] >= self._generation for p in self._at)

    def post(self, post: int, parts: Sequence[SliceAddress], edition: int) -> None:
        """Hand a batch to the process at a post that has none."""
        process = self._at[post]
        assert process is not None, "a batch for a post that nobody stands at"
        self._busy.add(post)
        if process in self._chore:
            self._delayed[process] = (parts, edition)
        else:
            self._workers.post(process, parts, edition)

    def renew(self) -> None:
        """From now on processes of before are replaced, one by one, between their batches."""
        self._generation = 1 + max(self._age.values(), default=0)
        self._settled = False

    def keep(self) -> None:
        """Leave those that are, as they are: a renewal is given up."""
        self._generation = min(self._age.values(), default=0)
        self.problem, self._failed, self._settled = "", 0, False

    def drop(self, edition: int) -> None:
        """Have every process give back what it holds of an edition, as soon as it is idle."""
        self._settled = False
        for process in self._workers.pid_of:
            self._chores.setdefault(process, []).append(edition)
            if process in self._up:
                self._do_chores(process)

    def retry(self) -> None:
        """Try once more to start what is missing."""
        self.problem, self._failed, self._settled = "", MAX_FAILED_STARTS - 1, False

    def news(self) -> list[News]:
        """What has happened, in terms of posts; never waits."""
        found: list[News] = []
        for happened in self._workers.news(0.0):
            self._settled &= isinstance(happened, Replied)
            match happened:
                case Replied(process, reply):
                    if process in self._chore:
                        self._chore.discard(process)
                        self._do_chores(process)
                        continue
                    post = self._at.index(process)
                    self._busy.discard(post)
                    self._do_chores(process)
                    found.append(Replied(post, reply))
                case Up(process):
                    self._failed, self.problem = 0, ""
                    self._up.add(process)
                    self._do_chores(process)
                case Down():
                    found += self._buried(happened)
        return found if self._settled else found + self.reconcile()

    def _do_chores(self, process: int) -> None:
        """Give an idle process its next chore, or the batch that waited for the last one to end."""
        if process in self._chore or (process in self._at and self._at.index(process) in self._busy):
            if process in self._chore or process not in self._delayed:
                return
            self._workers.post(process, *self._delayed.pop(process))
        elif chores := self._chores.get(process):
            self._chore.add(process)
            self._workers.post(process, (), chores.pop(0))

    def _buried(self, down: Down) -> list[News]:
        process = down.worker
        self._forget(process)
        log.warning("worker process died: %s", down.why)
        if down.starting:
            self._failed += 1
            if down.refused or self._failed >= MAX_FAILED_STARTS:
                self.problem = f"a worker cannot start: {down.why}"
                log.error("%s", self.problem)
        if process not in self._at:
            return []
        post = self._at.index(process)
        self._at[post] = None
        self._busy.discard(post)
        return [Down(post, down.why)]

    def _forget(self, process: int) -> None:
        self._up.discard(process)
        self._age.pop(process, None)
        self._chores.pop(process, None)
        self._chore.discard(process)
        self._delayed.pop(process, None)

    def reconcile(self) -> list[News]:
        """Fill posts, renew them, and start or end processes until there are as many as there should be."""
        found: list[News] = []
        for post, process in enumerate(self._at):
            spare = self._spare()
            if process is None and spare is not None:
                self._take(post, spare)
                found.append(Up(post))
        for post, process in enumerate(self._at):
            old = process is not None and self._age[process] < self._generation
            if old and post not in self._busy and (spare := self._spare()) is not None:
                assert process is not None
                self._end(process)
                self._take(post, spare)
        self._right_number()
        self._settled = (
            self.renewed
            and not any(self._chores.values())
            and not self._workers.starting
            and len(self._up) == len(self) + self._spares
        )
        return found

    def _spare(self) -> int | None:
        """A ready process without a post that knows what is served now."""
        free = sorted(p for p in self._up - set(self._at) if self._age[p] >= self._generation)
        return free[0] if free and free[0] not in self._chore else None

    def _take(self, post: int, process: int) -> None:
        self._at[post] = process
        pin(self._workers.pid_of[process], self._cores[post])

    def _end(self, process: int) -> None:
        self._workers.end(process)
        self._forget(process)

    def _right_number(self) -> None:
        """End spares that are out of date or too many, start what is missing."""
        renewing = any(p is not None and self._age[p] < self._generation for p in self._at)
        for process in self._up - set(self._at):
            if self._age[process] < self._generation:
                self._end(process)
        wanted = len(self) + (max(self._spares, 1) if renewing else self._spares)
        for process in sorted(self._up - set(self._at), reverse=True):
            if len(self._workers.pid_of) > wanted:
                self._end(process)
        if self.problem:
            return
        known = self._workers.pid_of
        at_once = 1 if self._failed else wanted - len(known)
        if self._failed and self._workers.starting:
            return
        for process in range(len(self._workers)):
            if process not in known and at_once > 0:
                self._age[process] = self._generation
                self._workers.spawn(process)
                at_once -= 1

    def begin(self) -> None:
        """Start a process for every post; spares follow."""
        for process in range(len(self)):
            self._age[process] = self._generation
            self._workers.spawn(process)

    def close(self) -> None:
        """End all processes and give the memory back."""
        self._workers.close()
        self._mail.close()


def pin(pid: int, cores: Sequence[int]) -> None:
    """Pin all threads of a process to cores."""
    with contextlib.suppress(OSError):  # it may have died
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), cores)

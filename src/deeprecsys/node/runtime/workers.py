"""The supervisor of a node's worker processes: keeps one at every post and restarts those that die.

A *post* is an execution slot of a device, as the dispatcher counts them: (device, worker). A process is at a
post, or it is a spare, or it is starting. When one dies, a spare takes its post at once, where there is one,
and another process is started. A node of trials has no spares; a service has some for its CPU.
"""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from time import monotonic
from typing import NamedTuple

from deeprecsys.core.errors import InputError, NodeError
from deeprecsys.core.policy import CPU
from deeprecsys.extras import require
from deeprecsys.node.runtime import mailbox
from deeprecsys.node.runtime.layout import VersionSpec
from deeprecsys.node.runtime.mailbox import WORDS, Mailbox, Reply, SliceAddress
from deeprecsys.node.runtime.process import Post, Slot, WorkerProcess
from deeprecsys.node.runtime.row_gate import RowWriter
from deeprecsys.node.runtime.segment import Segment
from deeprecsys.node.runtime.worker import WorkerSpec

log = logging.getLogger("deeprecsys.node")
log.addHandler(logging.NullHandler())  # silent unless the application configures logging

MAX_FAILED_STARTS, MAX_KILLED_STARTS = 2, 6
"""After this many failed starts in a row no more processes of the device are started; the second number where
the machine was the cause each time."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0
"""Before the next start where the machine, not the worker, was the cause of a failed one (no descriptor or
memory left, killed by the kernel): it doubles with each in a row."""
START_TIMEOUT_S = 120.0
ACCELERATOR_START_TIMEOUT_S = 480.0  # it compiles kernels and captures a graph for every bucket


class Replied(NamedTuple):
    """A worker finished its batch."""

    device: str
    worker: int
    reply: Reply


class Up(NamedTuple):
    """A post has a process again, which is ready."""

    device: str
    worker: int


class Down(NamedTuple):
    """The process at a post died; `why` is its last line on standard error, and how it ended.

    `begun`: whether it had begun the batch that it was handed; if not, the batch is not the cause. `killed`:
    whether it was ended from outside, or because it did not reply.
    """

    device: str
    worker: int
    why: str
    begun: bool
    killed: bool


News = Replied | Up | Down


@dataclass(slots=True)
class _Device:
    """The posts of one device, the slots of its processes, and how its starts went.

    Attributes:
        failed: starts in a row; problem: why no process is started any more, "" when all is well.
        next_start_s: when a process may be started again, on the monotonic clock.
        proven: the latest generation of which a process was ready.
    """

    name: str
    posts: list[Post]
    slots: list[Slot]
    spares: int
    failed: int = 0
    problem: str = ""
    next_start_s: float = 0.0
    proven: int = -1

    @property
    def given_up(self) -> bool:
        """An accelerator that has no process and gets none."""
        return self.name != CPU and bool(self.problem) and not any(p.process for p in self.posts)

    @property
    def timeout_s(self) -> float:
        return START_TIMEOUT_S if self.name == CPU else ACCELERATOR_START_TIMEOUT_S


class Workers:
    """Keeps a worker process at every post of a node.

    Args:
        cores: by device, the cores of each post; CPU posts first.
        versions: the model versions that a process which is started now for a post must hold.
        threads: compute threads per worker.
        spares: CPU processes that stand by.
        environment: added to that of the processes.
        strict: raise an error where a process cannot be started, instead of keeping it in `problems`.

    Attributes:
        alive: by device, posts that have a process.
        arithmetic: by device, what the engine computes in, in its own words.
        deaths: processes that ended by themselves.
        listen: descriptors that can be read when there is news.
        rows: writes rows of tables that workers read.
    """

    def __init__(
        self,
        cores: Mapping[str, Sequence[list[int]]],
        versions: Callable[[str, int], Sequence[VersionSpec]],
        threads: int,
        *,
        spares: int = 0,
        environment: Mapping[str, str] | None = None,
        strict: bool = False,
    ) -> None:
        require("engine", "a node")
        self._versions, self._threads, self._strict = versions, threads, strict
        self._environment = environment or {}
        # One slot more than there are posts, to renew processes one by one.
        slots = {n: len(c) + max(spares if n == CPU else 0, 1) for n, c in cores.items()}
        self._mail = Segment.create("mail", mailbox.mail_bytes(sum(slots.values())))
        words = self._mail.words()
        self._slots = [
            Slot(i, Mailbox(words[i * WORDS : (i + 1) * WORDS]), os.eventfd(0))
            for i in range(sum(slots.values()))
        ]
        writing = mailbox.writing_word(words, len(self._slots))
        self.rows = RowWriter((slot.box.reading for slot in self._slots), writing)
        free = iter(self._slots)
        self._devices = {
            name: _Device(
                name,
                [Post(name, worker, mask) for worker, mask in enumerate(pinned)],
                list(islice(free, slots[name])),
                spares if name == CPU else 0,
            )
            for name, pinned in cores.items()
        }
        self._posts = {(p.device, p.worker): p for d in self._devices.values() for p in d.posts}
        self._processes: dict[int, WorkerProcess] = {}  # by slot
        self._working: dict[int, WorkerProcess] = {}  # those with a request, by slot
        self._reply_event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._deaths = select.epoll()
        self._seq = 0
        self._generation = self._least_generation = 0
        self._settled = False  # nothing is to be reconciled until something but a reply happens
        self.listen = [self._reply_event, self._deaths.fileno()]
        self.alive = dict.fromkeys(self._devices, 0)
        self.arithmetic: dict[str, str] = {}
        self.deaths = 0

    def __len__(self) -> int:
        return len(self._posts)

    @property
    def counts(self) -> dict[str, int]:
        """Posts of each device."""
        return {name: len(device.posts) for name, device in self._devices.items()}

    @property
    def complete(self) -> bool:
        """Whether every post has a process."""
        return sum(self.alive.values()) == len(self._posts)

    @property
    def problems(self) -> dict[str, str]:
        """By device, why no process is started any more; empty when all is well."""
        found = {name: device.problem for name, device in self._devices.items() if device.problem}
        return {name: f"a {name} worker cannot start: {why}" for name, why in found.items()}

    @property
    def spares(self) -> int:
        """Processes that are ready and have no post."""
        return sum(p.ready and p.post is None for p in self._processes.values())

    @property
    def pids(self) -> list[int]:
        """Process ids at posts, in their order."""
        return [p.process.pid for p in self._posts.values() if p.process]

    @property
    def all_pids(self) -> list[int]:
        return [p.pid for p in self._processes.values()]

    @property
    def renewed(self) -> bool:
        """Whether every post's process was started since the last `renew`; a dead accelerator has none."""
        posts = [p for d in self._devices.values() if not d.given_up for p in d.posts]
        return all(p.process and not self._outdated(p.process) for p in posts)

    @property
    def renewal_problem(self) -> str:
        """Why a renewal cannot go on; "" while it can."""
        return "; ".join(why for name, why in self.problems.items() if not self._devices[name].given_up)

    def _of(self, device: _Device) -> list[WorkerProcess]:
        """A device's processes, by slot."""
        return [p for slot in device.slots if (p := self._processes.get(slot.index))]

    # Batches.
    def post(self, device: str, worker: int, parts: Sequence[SliceAddress], version: int = 0) -> None:
        """Hand a batch to the process at a post, which has none.

        Where the process has died and that news is not read yet, the batch is lost by it.
        """
        process = self._posts[device, worker].process
        if process is None:
            return
        if process.dropping:
            process.delayed = parts, version
        else:
            self._send(process, parts, version)

    def _send(self, process: WorkerProcess, parts: Sequence[SliceAddress], version: int) -> None:
        process.sent = self._seq = self._seq + 1
        self._working[process.slot.index] = process
        process.box.post(self._seq, parts, version)
        os.eventfd_write(process.slot.request_event, 1)

    def news(self, timeout_s: float) -> list[News]:
        """What has happened; sleeps at most `timeout_s` for something to happen.

        Raises:
            InputError, NodeError: where `strict`, a process cannot be started.
        """
        ready, _, _ = select.select(self.listen, (), (), max(timeout_s, 0.0))
        news: list[News] = []
        if self._reply_event in ready:
            os.eventfd_read(self._reply_event)
            for process in list(self._working.values()):
                if process.box.done == process.sent:
                    self._replied(process, news)
            if not self._settled:
                for process in self._starting:
                    if process.box.state == mailbox.READY:
                        self._started(process)
        if ready and ready[-1] != self._reply_event:
            for pidfd, _ in self._deaths.poll(0):
                news += self._reap(pidfd)
        return news if self._settled else news + self.reconcile(news)

    def _replied(self, process: WorkerProcess, news: list[News]) -> None:
        del self._working[process.slot.index]
        process.sent = 0
        if process.dropping:
            process.dropping = self._settled = False
        else:
            assert process.post is not None
            news.append(Replied(process.post.device, process.post.worker, process.box.reply()))
        if process.delayed:
            delayed, process.delayed = process.delayed, None
            self._send(process, *delayed)
        elif process.drops:
            self._drop_next(process)

    def _drop_next(self, process: WorkerProcess) -> None:
        """Have a process drop a version, if it is idle and has one to drop."""
        if process.drops and process.ready and not process.sent:
            process.dropping = True
            self._send(process, (), process.drops.pop(0))

    # Starts and deaths.
    def replace(self, device: str, worker: int, why: str) -> list[News]:
        """Kill the process at a post, which hangs; another one takes the post when there is one."""
        process = self._posts[device, worker].process
        if process is None:
            return []
        log.warning("%s worker process %d is replaced: %s", device, process.pid, why)
        down = Down(device, worker, why, process.begun, killed=True)
        self._end(process)
        self.deaths += 1
        return [down, *self.reconcile([down])]

    def start(self, progress: Callable[[str, float], None] | None = None) -> None:
        """Start all workers and wait until they are ready; for a node that is `strict`."""
        while not self.complete:
            self.news(0.2 if self._processes else 0.0)
            self.check_starts()
            if progress:
                progress("starting workers", sum(self.alive.values()) / len(self))

    @property
    def _starting(self) -> list[WorkerProcess]:
        return [p for p in self._processes.values() if not p.ready]

    def _spawn(self, device: _Device, slot: Slot) -> None:
        """Start a process, for a post that none is for, or as a spare."""
        covered = [p.post or p.home for p in self._fresh(device)]
        lacking = [p for p in device.posts if p not in covered]
        home = lacking[0] if lacking else device.posts[slot.index % len(device.posts)]
        process = WorkerProcess(
            slot,
            home,
            self._generation,
            *self._command(slot, home),
            threads=self._threads,
            environment=self._environment,
            timeout_s=device.timeout_s,
        )
        try:
            self._deaths.register(process.pidfd, select.EPOLLIN)
        except OSError:
            process.end()
            raise
        self._processes[slot.index] = process

    def _command(self, slot: Slot, home: Post) -> tuple[Sequence[str], Sequence[int]]:
        """How a process is started, and the descriptors that it inherits."""
        spec = WorkerSpec(
            parent=os.getpid(),
            index=slot.index,
            boxes=len(self._slots),
            cores=home.cores,
            request_event=slot.request_event,
            reply_event=self._reply_event,
            mail=self._mail.fd,
            threads=self._threads,
            gentle=self.alive[home.device] == len(self._devices[home.device].posts),
            versions=tuple(self._versions(home.device, home.worker)),
        )
        return ["-m", "deeprecsys.node.runtime.worker", spec.dump()], spec.fds

    def _started(self, process: WorkerProcess) -> None:
        device = self._devices[process.home.device]
        device.failed, device.problem, device.next_start_s = 0, "", 0.0
        device.proven = max(device.proven, process.generation)
        self.arithmetic[device.name] = process.box.message
        process.ready, self._settled = True, False
        self._drop_next(process)

    def _reap(self, pidfd: int) -> list[News]:
        """Collect a dead process."""
        process = next(p for p in self._processes.values() if p.pidfd == pidfd)
        refused = process.box.state == mailbox.REFUSED
        why = process.box.message if refused else process.last_line()
        post, begun, killed = process.post, process.begun, process.killed
        self._end(process)
        self.deaths += 1
        log.warning("%s worker process died: %s", process.home.device, why)
        if not process.ready:
            device = self._devices[process.home.device]
            self._start_failed(device, why, refused, by_machine=killed and not refused)
        return [Down(post.device, post.worker, why, begun, killed)] if post else []

    def _start_failed(self, device: _Device, why: str, final: bool = False, by_machine: bool = False) -> None:
        """Start no more processes of the device if it would be no use.

        Where processes like this one could be started before and the machine is the cause, starts go on, with
        pauses between them.
        """
        device.failed += 1
        pause_s = min(FIRST_PAUSE_S * 2.0 ** (device.failed - 1), LONGEST_PAUSE_S) if by_machine else 0.0
        device.next_start_s = monotonic() + pause_s
        if by_machine and device.proven >= self._generation and not self._strict:
            log.warning("a %s worker was not started: %s; next try in %g s", device.name, why, pause_s)
        elif final or device.failed >= (MAX_KILLED_STARTS if by_machine else MAX_FAILED_STARTS):
            device.problem = why if device.failed == 1 else f"{why}, after {device.failed} starts"
            log.error("a %s worker cannot start: %s", device.name, why)
            if self._strict:
                self.raise_problem()

    def raise_problem(self) -> None:
        """Raise the error that says why processes cannot be started, if one is known."""
        for name, problem in self.problems.items():
            if (why := self._devices[name].problem).startswith("InputError: "):
                raise InputError(why.removeprefix("InputError: "))
            raise NodeError(problem)

    def check_starts(self) -> None:
        """End processes that should have been ready by now; their start has failed."""
        now = monotonic()
        for process in [p for p in self._starting if now > p.deadline_s]:
            device = self._devices[process.home.device]
            self._end(process)
            why = f"not ready within {device.timeout_s:.0f} s"
            self._start_failed(device, why, final=True, by_machine=True)

    def retry(self) -> None:
        """Try once more to start what is missing."""
        for device in self._devices.values():
            if device.problem:
                device.problem, device.failed, device.next_start_s = "", MAX_FAILED_STARTS - 1, 0.0
        self._settled = False

    # Renewal: other model versions.
    def renew(self) -> None:
        """From now on processes of before are replaced, one by one, between their batches."""
        self._generation += 1
        self._least_generation = self._generation
        self._settled = False

    def keep(self) -> None:
        """Leave the processes that there are: a renewal is given up."""
        self._least_generation = 0
        for device in self._devices.values():
            device.problem, device.failed, device.next_start_s = "", 0, 0.0
            device.proven = self._generation
        self._settled = False

    def drop(self, version: int) -> None:
        """Have every process free what it holds of a version, as soon as it is idle."""
        for process in self._processes.values():
            process.drops.append(version)
            self._drop_next(process)

    # Reconciliation: what is, against what should be.
    def reconcile(self, unread: Sequence[News] = ()) -> list[News]:
        """Fill posts, renew them, and start or end processes until there are as many as there should be.

        Args:
            unread: news; posts of which it says that they are down may still be handed batches, and are
                filled by a later call.
        """
        news: list[News] = []
        down = [(n.device, n.worker) for n in unread if isinstance(n, Down)]
        for device in self._devices.values():
            for post in device.posts:
                if (post.device, post.worker) in down:
                    continue
                if post.process is None and (found := self._process_for(post)):
                    self._take(post, found)
                    news.append(Up(post.device, post.worker))
            for post in device.posts:
                old = post.process
                if old and old.idle and self._outdated(old) and (found := self._process_for(post)):
                    self._end(old)
                    self._take(post, found)
            self._right_number(device)
        processes = self._processes.values()
        self._settled = (
            not down
            and all(p.ready and not self._outdated(p) for p in processes)
            and all(d.problem or len(self._of(d)) == len(d.posts) + d.spares for d in self._devices.values())
        )
        return news

    def _outdated(self, process: WorkerProcess) -> bool:
        return process.generation < self._least_generation

    def _fresh(self, device: _Device) -> list[WorkerProcess]:
        """A device's processes that hold what is served now, those that are starting included."""
        return [p for p in self._of(device) if not self._outdated(p)]

    def _process_for(self, post: Post) -> WorkerProcess | None:
        """A ready process without a post: one that was started for this post, or a spare of the CPU."""
        free = [p for p in self._fresh(self._devices[post.device]) if p.ready and p.post is None]
        own = [p for p in free if p.home is post]
        any_other = [p for p in free if post.device == CPU and p.home.process is not None]
        return next(iter(own + any_other), None)

    def _take(self, post: Post, process: WorkerProcess) -> None:
        post.process, process.post = process, post
        self.alive[post.device] += 1
        if process.home is not post:
            process.pin(post.cores)

    def _end(self, process: WorkerProcess) -> None:
        """End a process, whatever it is doing; its later news is lost."""
        self._deaths.unregister(process.pidfd)
        process.end()
        del self._processes[process.slot.index]
        self._working.pop(process.slot.index, None)
        if post := process.post:
            post.process = None
            self.alive[post.device] -= 1
        self._settled = False

    def _right_number(self, device: _Device) -> None:
        """End spares that are out of date or too many, start what is missing."""
        for process in [p for p in self._of(device) if p.ready and not p.post and self._outdated(p)]:
            self._end(process)
        full = all(p.process for p in device.posts)
        renewing = any(p.process and self._outdated(p.process) for p in device.posts)
        wanted = len(device.posts) + (max(device.spares, 1) if renewing else device.spares)
        processes = self._of(device)
        spares = [p for p in processes if p.ready and not p.post]
        for process in spares[::-1][: max(len(processes) - wanted, 0)]:
            self._end(process)
        if device.problem or (device.failed and not all(p.ready for p in processes)):
            return
        if monotonic() < device.next_start_s:
            return
        # Spares are started once every post has its process, and after a failure one process at a time.
        missing = max((wanted if full else len(device.posts)) - len(processes), 0)
        free = [slot for slot in device.slots if slot.index not in self._processes]
        for slot in free[: min(missing, 1) if device.failed else missing]:
            try:
                self._spawn(device, slot)
            except (OSError, MemoryError) as e:
                self._start_failed(device, f"{type(e).__name__}: {e}", by_machine=True)
                return

    def close(self) -> None:
        """End all processes, drop all descriptors and give the memory back."""
        for process in list(self._processes.values()):
            self._end(process)
        self._deaths.close()
        for fd in (*(slot.request_event for slot in self._slots), self._reply_event):
            os.close(fd)
        self._mail.close()

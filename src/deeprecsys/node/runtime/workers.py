"""The supervisor of a node's worker processes: keeps one at every post and restarts those that die.

A *post* is an execution slot of a device, as the dispatcher counts them: (device, worker). A process is at a
post, or it is a spare, or it is starting. When one dies, a spare takes its post at once, where there is one,
and another process is started. A node of trials has no spares; a service has some for its CPU.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import IO, NamedTuple

from deeprecsys.core.errors import InputError, NodeError
from deeprecsys.core.policy import CPU
from deeprecsys.node.runtime import mailbox
from deeprecsys.node.runtime.layout import VersionSpec
from deeprecsys.node.runtime.mailbox import WORDS, Mailbox, Reply, SliceAddress
from deeprecsys.node.runtime.segment import Segment
from deeprecsys.node.runtime.worker import WorkerSpec

log = logging.getLogger("deeprecsys.node")
log.addHandler(logging.NullHandler())  # silent unless the application configures logging

MAX_FAILED_STARTS = 2
"""After this many failed starts in a row no more processes of the device are started."""
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
    """The process at a post died; `why` is its last line on standard error, and how it ended."""

    device: str
    worker: int
    why: str


News = Replied | Up | Down


@dataclass(eq=False, slots=True)
class _Post:
    device: str
    worker: int
    cores: list[int]
    process: _Process | None = None


@dataclass(eq=False, slots=True)
class _Process:
    """A worker process from its start to its end.

    Attributes:
        index: of its mailbox.
        home: the post that it was started for: it has its cores and, on an accelerator, its device.
        generation: of `Workers.renew`, at its start; deadline_s: by when it must be ready.
        sent: sequence number of the request that it works on; 0 where it has none.
        dropping: whether that request is to drop a version; drops: versions to drop when it is idle.
        delayed: a batch that waits for the end of a drop.
    """

    index: int
    box: Mailbox
    request_event: int
    popen: subprocess.Popen[bytes]
    pidfd: int
    stderr: IO[bytes]
    home: _Post
    generation: int
    deadline_s: float
    post: _Post | None = None
    ready: bool = False
    sent: int = 0
    dropping: bool = False
    drops: list[int] = field(default_factory=list)
    delayed: tuple[Sequence[SliceAddress], int] | None = None

    def last_line(self) -> str:
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


@dataclass(slots=True)
class _Device:
    """The posts of one device, the indices of its mailboxes, and how its starts went.

    Attributes:
        problem: why no process is started any more, "" when all is well.
    """

    name: str
    posts: list[_Post]
    boxes: range
    spares: int
    failed: int = 0
    problem: str = ""

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
        self._versions, self._threads, self._strict = versions, threads, strict
        self._environment = environment or {}
        self._devices: dict[str, _Device] = {}
        boxes = 0
        for name, pinned in cores.items():
            posts = [_Post(name, worker, mask) for worker, mask in enumerate(pinned)]
            count = spares if name == CPU else 0
            # One mailbox more than there are posts, to renew processes one by one.
            end = boxes + len(posts) + max(count, 1)
            self._devices[name] = _Device(name, posts, range(boxes, end), count)
            boxes = end
        self._posts = {(p.device, p.worker): p for d in self._devices.values() for p in d.posts}
        self._mail = Segment.create("mail", boxes * WORDS * 8)
        words = self._mail.words()
        self._boxes = [Mailbox(words[i * WORDS : (i + 1) * WORDS]) for i in range(boxes)]
        self._processes: list[_Process | None] = [None] * boxes
        self._working: dict[int, _Process] = {}  # mailbox index -> process with a request
        self._starting: dict[int, _Process] = {}
        self._request_events = [os.eventfd(0) for _ in range(boxes)]
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
        return sum(p.ready and p.post is None for p in self._running())

    @property
    def pids(self) -> list[int]:
        """Process ids at posts, in their order."""
        return [p.process.popen.pid for p in self._posts.values() if p.process]

    @property
    def all_pids(self) -> list[int]:
        return [p.popen.pid for p in self._running()]

    @property
    def renewed(self) -> bool:
        """Whether every post's process was started since the last `renew`; a dead accelerator has none."""
        posts = [p for d in self._devices.values() if not d.given_up for p in d.posts]
        return all(p.process and not self._outdated(p.process) for p in posts)

    @property
    def renewal_problem(self) -> str:
        """Why a renewal cannot go on; "" while it can."""
        return "; ".join(why for name, why in self.problems.items() if not self._devices[name].given_up)

    def _running(self, device: _Device | None = None) -> list[_Process]:
        """The processes that there are, by mailbox."""
        some = self._processes if device is None else [self._processes[i] for i in device.boxes]
        return [p for p in some if p]

    # Batches.
    def post(self, device: str, worker: int, parts: Sequence[SliceAddress], version: int = 0) -> None:
        """Hand a batch to the process at a post, which has none."""
        process = self._posts[device, worker].process
        assert process is not None, "a batch for a post without a process"
        if process.dropping:
            process.delayed = parts, version
        else:
            self._send(process, parts, version)

    def _send(self, process: _Process, parts: Sequence[SliceAddress], version: int) -> None:
        process.sent = self._seq = self._seq + 1
        self._working[process.index] = process
        process.box.post(self._seq, parts, version)
        os.eventfd_write(process.request_event, 1)

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
            for process in list(self._starting.values()):
                if process.box.state == mailbox.READY:
                    self._started(process)
        if ready and ready[-1] != self._reply_event:
            for pidfd, _ in self._deaths.poll(0):
                news += self._reap(pidfd)
        return news if self._settled else news + self.reconcile()

    def _replied(self, process: _Process, news: list[News]) -> None:
        del self._working[process.index]
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

    def _drop_next(self, process: _Process) -> None:
        """Have a process drop a version, if it is idle and has one to drop."""
        if process.drops and process.ready and not process.sent:
            process.dropping = True
            self._send(process, (), process.drops.pop(0))

    # Starts and deaths.
    def start(self, progress: Callable[[str, float], None] | None = None) -> None:
        """Start all workers and wait until they are ready; for a node that is `strict`."""
        while not self.complete:
            self.news(0.2 if self._starting else 0.0)
            self.check_starts()
            if progress:
                progress("starting workers", sum(self.alive.values()) / len(self))

    def _spawn(self, device: _Device, index: int) -> None:
        """Start a process at a mailbox that has none."""
        box, event = self._boxes[index], self._request_events[index]
        box.clear()
        _reset(event)
        covered = {id(p.post or p.home) for p in self._fresh(device)}
        home = next(
            (p for p in device.posts if id(p) not in covered), device.posts[index % len(device.posts)]
        )
        command, fds = self._command(index, home)
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
        # stderr goes to a nameless file, not a pipe, which would have to be read for the worker to go on.
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process ends
        popen = subprocess.Popen(
            [sys.executable, *command],
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=os.environ | dict.fromkeys(names, str(self._threads)) | dict(self._environment),
            # A terminal's Ctrl-C is for the node, which ends its workers itself; and precedence that a
            # worker takes (`cores.go_first`) is its session's alone.
            start_new_session=True,
        )
        pidfd = os.pidfd_open(popen.pid)
        process = _Process(
            index, box, event, popen, pidfd, stderr, home, self._generation, monotonic() + device.timeout_s
        )
        self._deaths.register(pidfd, select.EPOLLIN)
        self._processes[index] = self._starting[index] = process

    def _command(self, index: int, home: _Post) -> tuple[Sequence[str], Sequence[int]]:
        """How a process is started, and the descriptors that it inherits."""
        spec = WorkerSpec(
            parent=os.getpid(),
            index=index,
            boxes=len(self._boxes),
            cores=home.cores,
            request_event=self._request_events[index],
            reply_event=self._reply_event,
            mail=self._mail.fd,
            threads=self._threads,
            gentle=self.alive[home.device] == len(self._devices[home.device].posts),
            versions=tuple(self._versions(home.device, home.worker)),
        )
        return ["-m", "deeprecsys.node.runtime.worker", spec.dump()], spec.fds

    def _started(self, process: _Process) -> None:
        device = self._devices[process.home.device]
        device.failed, device.problem = 0, ""
        self.arithmetic[device.name] = process.box.message
        del self._starting[process.index]
        process.ready, self._settled = True, False
        self._drop_next(process)

    def _reap(self, pidfd: int) -> list[News]:
        """Collect a dead process."""
        process = next(p for p in self._running() if p.pidfd == pidfd)
        process.popen.wait()
        refused = process.box.state == mailbox.REFUSED
        why = process.box.message if refused else process.last_line()
        post = process.post
        self._end(process)
        self.deaths += 1
        log.warning("%s worker process died: %s", process.home.device, why)
        if not process.ready:
            self._start_failed(self._devices[process.home.device], why, refused)
        return [Down(post.device, post.worker, why)] if post else []

    def _start_failed(self, device: _Device, why: str, final: bool) -> None:
        """Start no more processes of the device if it would be no use."""
        device.failed += 1
        if final or device.failed >= MAX_FAILED_STARTS:
            device.problem = why
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
        for process in [p for p in self._starting.values() if now > p.deadline_s]:
            device = self._devices[process.home.device]
            self._end(process)
            self._start_failed(device, f"not ready within {device.timeout_s:.0f} s", final=True)

    def retry(self) -> None:
        """Try once more to start what is missing."""
        for device in self._devices.values():
            if device.problem:
                device.problem, device.failed = "", MAX_FAILED_STARTS - 1
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
            device.problem, device.failed = "", 0
        self._settled = False

    def drop(self, version: int) -> None:
        """Have every process free what it holds of a version, as soon as it is idle."""
        for process in self._running():
            process.drops.append(version)
            self._drop_next(process)

    # Reconciliation: what is, against what should be.
    def reconcile(self) -> list[News]:
        """Fill posts, renew them, and start or end processes until there are as many as there should be."""
        news: list[News] = []
        for device in self._devices.values():
            for post in device.posts:
                if post.process is None and (found := self._process_for(post)):
                    self._take(post, found)
                    news.append(Up(post.device, post.worker))
            for post in device.posts:
                old = post.process
                idle = old and not old.sent and not old.delayed
                if old and idle and self._outdated(old) and (found := self._process_for(post)):
                    self._end(old)
                    self._take(post, found)
            self._right_number(device)
        self._settled = not self._starting and all(
            d.problem or len(self._fresh(d)) == len(d.posts) + d.spares for d in self._devices.values()
        )
        return news

    def _outdated(self, process: _Process) -> bool:
        return process.generation < self._least_generation

    def _fresh(self, device: _Device) -> list[_Process]:
        """A device's processes that hold what is served now, those that are starting included."""
        return [p for p in self._running(device) if not self._outdated(p)]

    def _process_for(self, post: _Post) -> _Process | None:
        """A ready process without a post: one that was started for this post, or a spare of the CPU."""
        free = [p for p in self._fresh(self._devices[post.device]) if p.ready and p.post is None]
        own = [p for p in free if p.home is post]
        any_other = [p for p in free if post.device == CPU and p.home.process is not None]
        return next(iter(own + any_other), None)

    def _take(self, post: _Post, process: _Process) -> None:
        post.process, process.post = process, post
        self.alive[post.device] += 1
        if process.home is not post:
            pin(process.popen.pid, post.cores)

    def _end(self, process: _Process) -> None:
        """End a process, whatever it is doing; its later news is lost."""
        self._deaths.unregister(process.pidfd)
        process.end()
        self._processes[process.index] = None
        self._working.pop(process.index, None)
        self._starting.pop(process.index, None)
        if post := process.post:
            post.process = None
            self.alive[post.device] -= 1
        self._settled = False

    def _right_number(self, device: _Device) -> None:
        """End spares that are out of date or too many, start what is missing."""
        for process in self._running(device):
            if process.ready and process.post is None and self._outdated(process):
                self._end(process)
        full = all(p.process for p in device.posts)
        renewing = any(p.process and self._outdated(p.process) for p in device.posts)
        spares = max(device.spares, 1) if renewing else device.spares
        wanted = len(device.posts) + spares
        spare = [p for p in self._running(device) if p.ready and p.post is None]
        for process in spare[::-1][: max(len(self._running(device)) - wanted, 0)]:
            self._end(process)
        if device.problem or (device.failed and self._starting_of(device)):
            return
        # Spares are started once every post has its process, and after a failure one process at a time.
        missing = (wanted if full else len(device.posts)) - len(self._running(device))
        free = [i for i in device.boxes if self._processes[i] is None]
        for index in free[: min(missing, 1) if device.failed else max(missing, 0)]:
            self._spawn(device, index)

    def _starting_of(self, device: _Device) -> bool:
        return any(i in self._starting for i in device.boxes)

    def close(self) -> None:
        """End all processes, drop all descriptors and give the memory back."""
        for process in self._running():
            self._end(process)
        self._deaths.close()
        for fd in (*self._request_events, self._reply_event):
            os.close(fd)
        self._request_events = []
        self._mail.close()


def pin(pid: int, cores: Sequence[int]) -> None:
    """Pin all threads of a process to cores."""
    with contextlib.suppress(OSError):  # it may have died
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), cores)


def _reset(eventfd: int) -> None:
    """Set a blocking eventfd's counter to 0."""
    if select.select([eventfd], (), (), 0)[0]:
        os.eventfd_read(eventfd)

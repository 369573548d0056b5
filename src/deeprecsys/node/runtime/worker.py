"""A worker process: waits for a request in its mailbox, scores the batch, replies.

Started by `workers` as `python -m deeprecsys.node.runtime.worker SPEC`, for trials and for a service alike.
It imports only what its engines need; thread counts are in its environment before that.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from deeprecsys.engine import Engine, SliceView, build
from deeprecsys.node.runtime import mailbox
from deeprecsys.node.runtime.cores import die_with_parent, go_first
from deeprecsys.node.runtime.layout import VersionSpec, Viewer
from deeprecsys.node.runtime.page_walk import PageWalker, resident
from deeprecsys.node.runtime.row_gate import RowReader
from deeprecsys.node.runtime.segment import Segment
from deeprecsys.plugins import RAISED

SPIN_NS = 50_000 if platform.machine() == "x86_64" else 0
"""How long a worker polls its mailbox before it sleeps: under load the next batch comes sooner than a
sleeping core wakes. Only where stores are seen in order without a system call."""


@dataclass(frozen=True)
class WorkerSpec:
    """Everything that a worker process is started with; crosses as JSON.

    Attributes:
        parent: the node's process id.
        index: of its mailbox, one of `boxes` in the segment `mail`.
        request_event: eventfd that the node signals: a request is in the mailbox.
        reply_event: eventfd that the worker signals: a reply is in the mailbox.
        threads: compute threads.
        gentle: whether no query waits for this start: then it takes precedence only once it is ready.
        versions: the model versions that it scores.
    """

    parent: int
    index: int
    boxes: int
    cores: list[int]
    request_event: int
    reply_event: int
    mail: int
    threads: int
    gentle: bool
    versions: tuple[VersionSpec, ...]

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> WorkerSpec:
        doc = json.loads(text)
        return cls(**{**doc, "versions": tuple(VersionSpec.from_json(v) for v in doc["versions"])})

    @property
    def fds(self) -> list[int]:
        """All descriptors that the process inherits."""
        segments = {self.mail, *(fd for v in self.versions for fd in v.fds.values())}
        return [self.request_event, self.reply_event, *segments]


def main() -> None:
    gc.disable()  # to look for garbage again and again takes a tenth of a start, which imports much
    spec = WorkerSpec.load(sys.argv[1])
    die_with_parent(spec.parent, signal.SIGKILL)
    os.sched_setaffinity(0, spec.cores)
    if not spec.gentle:
        go_first()
    words = Segment(spec.mail, mailbox.mail_bytes(spec.boxes), writable=True).words()
    box = mailbox.Mailbox(words[spec.index * mailbox.WORDS : (spec.index + 1) * mailbox.WORDS])
    reading = RowReader(box.reading, mailbox.writing_word(words, spec.boxes))
    mapped: dict[int, Segment] = {}
    try:
        runners = {v.id: ModelRunner.of(v, spec.threads, mapped, reading) for v in spec.versions}
    except RAISED as e:
        box.write_message(f"{type(e).__name__}: {e}")
        box.state = mailbox.REFUSED
        os.eventfd_write(spec.reply_event, 1)
        raise SystemExit(1) from e
    tables = {v.id: v.fds["tables"] for v in spec.versions}

    def drop(version: int) -> None:
        """Free what is held of a version that no query will ask for again."""
        runners.pop(version, None)
        gc.unfreeze()
        gc.collect()  # engines hold themselves in circles
        gc.freeze()
        fd = tables.pop(version, -1)
        if fd not in tables.values() and (segment := mapped.pop(fd, None)):
            if walker:
                walker.forget()
            segment.close()

    gc.collect()
    gc.freeze()
    gc.enable()
    arithmetic = [getattr(r.engine, "arithmetic", "") for r in runners.values()]
    box.write_message(str(arithmetic[0]) if arithmetic else "")
    walker = resident(lambda: [s for s in mapped.values() if not s.writable])
    if spec.gentle:
        go_first()
    box.state = mailbox.READY
    os.eventfd_write(spec.reply_event, 1)
    run_loop(spec.request_event, spec.reply_event, box, runners, drop, walker)


class ModelRunner(NamedTuple):
    """What scores one model version: the engine, and what turns an address in the mailbox into its view."""

    engine: Engine
    view: Viewer
    reading: AbstractContextManager[Any] = nullcontext()
    """To be held around the engine's `score`."""

    @classmethod
    def of(
        cls, version: VersionSpec, threads: int, mapped: dict[int, Segment], reading: RowReader
    ) -> ModelRunner:
        """Build the engine; `mapped` are this process's maps by descriptor, to which its own are added."""
        assembly, view = version.attach(threads, mapped, reading)
        engine = build(version.engine, assembly)
        return cls(engine, view, nullcontext() if getattr(engine, "holds_reading", False) else reading)


def run_loop(
    request_event: int,
    reply_event: int,
    box: mailbox.Mailbox,
    runners: Mapping[int, ModelRunner],
    drop: Callable[[int], None] = lambda _version: None,
    walker: PageWalker | None = None,
) -> None:
    """Score what is requested until a stop is.

    Args:
        runners: by model version.
        drop: called with the version of a request without slices: it will not be asked for again.
        walker: walks while there is no request.
    """
    clock, wait, signal_reply = time.monotonic_ns, os.eventfd_read, os.eventfd_write
    seq = 0
    poller = select.poll()
    poller.register(request_event, select.POLLIN)

    def requested() -> bool:
        return box.requested != seq

    while True:
        if SPIN_NS:
            until = clock() + SPIN_NS
            while not requested() and clock() < until:
                pass
        while walker and not requested() and not poller.poll(1e3 * walker.wait_s):
            walker.walk(requested)
        wait(request_event)
        seq, addresses = box.request()
        if seq == 0:
            return
        started = clock()
        errors: list[tuple[int, str]] = []
        if addresses:
            engine, view, reading = runners[box.version]
            slices = [view(a) for a in addresses]
            with reading:
                try:
                    score(engine, slices)
                except RAISED:
                    errors = one_by_one(engine, slices)
            del engine, view, reading, slices
        else:
            drop(box.version)
        box.answer(seq, started, clock(), errors)
        signal_reply(reply_event, 1)


def score(engine: Engine, slices: Sequence[SliceView]) -> None:
    """Score a batch; slices without items, which an item of much work leaves behind it, are left out."""
    if some := [s for s in slices if s.stop > s.start or s.start == 0]:
        engine.score(some)


def one_by_one(engine: Engine, slices: Sequence[SliceView]) -> list[tuple[int, str]]:
    """Score the slices of a failed batch alone; the index and the reason of each that fails."""
    errors = []
    for i, part in enumerate(slices):
        try:
            score(engine, [part])
        except RAISED as e:
            part.out[...] = np.nan
            errors.append((i, f"{type(e).__name__}: {e}".splitlines()[0]))
    return errors


if __name__ == "__main__":
    main()

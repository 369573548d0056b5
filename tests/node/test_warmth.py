"""Walks over an idle worker's memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from itertools import count

import numpy as np
import pytest

from deeprecsys.engine import SliceView
from deeprecsys.node.runtime import mailbox
from deeprecsys.node.runtime import page_walk as warmth
from deeprecsys.node.runtime.page_walk import EVERY_S, MOST_SHARE, PIECE, PageWalker
from deeprecsys.node.runtime.segment import Segment
from deeprecsys.node.runtime.worker import ModelRunner, run_loop

SIZE = 2 * PIECE + 5000


class Clock:
    """A clock that goes on by `step` each time it is looked at."""

    def __init__(self) -> None:
        self.now_s, self.step = 0.0, 0.0

    def __call__(self) -> float:
        self.now_s += self.step
        return self.now_s


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = Segment.create("test", SIZE)
    yield made
    made.close()


def resident(segment: Segment) -> int:
    """Bytes of a map that this process's page tables hold, from smaps."""
    inside = False
    with open("/proc/self/smaps") as smaps:
        for line in smaps:
            head = line.split(maxsplit=1)[0]
            if "-" in head and not head.endswith(":"):
                low, high = (int(x, 16) for x in head.split("-"))
                inside = low <= segment._address < high
            elif inside and head == "Rss:":
                return 1024 * int(line.split()[1])
    return 0


def test_a_walk_reads_every_page_and_is_due_again_some_seconds_later(segment: Segment) -> None:
    clock = Clock()
    walker = PageWalker(lambda: [segment], clock)
    assert (walker.wait_s, resident(segment)) == (0.0, 0)
    walker.walk()
    assert resident(segment) >= SIZE
    assert walker.wait_s == EVERY_S
    clock.now_s += EVERY_S - 1
    assert walker.wait_s == pytest.approx(1)
    clock.now_s += 2
    assert walker.wait_s == 0


def test_a_walk_that_is_stopped_goes_on_where_it_was(segment: Segment) -> None:
    walker = PageWalker(lambda: [segment], Clock())
    for pages in (PIECE, 2 * PIECE):
        walker.walk(lambda: True)
        assert pages <= resident(segment) <= pages + (4 << 20)  # the kernel may map neighbours too
        assert walker.wait_s == 0
    walker.walk()
    assert resident(segment) >= SIZE
    assert walker.wait_s == EVERY_S


def test_long_walks_take_no_more_than_their_share(segment: Segment) -> None:
    clock, cpu = Clock(), Clock()
    cpu.step = 1.0
    walker = PageWalker(lambda: [segment], clock, cpu)
    walker.walk(lambda: True)
    walker.walk()
    assert walker.wait_s == pytest.approx(2.0 / MOST_SHARE)


def test_a_walk_has_the_usual_weight_and_gives_it_back(segment: Segment) -> None:
    def weight() -> int:
        return os.getpriority(os.PRIO_PROCESS, 0)

    before, seen = weight(), []
    try:
        os.setpriority(os.PRIO_PROCESS, 0, before - 5)
    except PermissionError:
        pytest.skip("only a privileged process may take precedence")
    try:
        PageWalker(lambda: [segment]).walk(lambda: bool(seen.append(weight())))
        assert (set(seen), weight()) == ({max(before - 5, 0)}, before - 5)
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)


def test_what_was_closed_meanwhile_is_not_walked_over(segment: Segment) -> None:
    other = Segment.create("other", SIZE)
    held = [other, segment]
    walker = PageWalker(lambda: held, Clock())
    walker.walk(lambda: True)
    held.remove(other)
    walker.forget()
    other.close()
    walker.walk()  # a fault would end the process
    assert resident(segment) >= SIZE


@pytest.mark.parametrize(("flags", "is_virtual"), [({"avx2", "hypervisor"}, True), ({"avx2"}, False)])
def test_a_hypervisor_is_told_by_the_cpus_flags(
    flags: set[str], is_virtual: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warmth, "cpu_flags", lambda: frozenset(flags))
    assert warmth.virtual() is is_virtual


class Endless:
    """A walk that ends only when somebody asks for something."""

    wait_s = 0.0

    def __init__(self) -> None:
        self.walks = count(1)
        self.started = threading.Event()

    def walk(self, stop: Callable[[], bool]) -> None:
        next(self.walks)
        self.started.set()
        while not stop():
            pass


class Nothing:
    def score(self, slices: list[SliceView]) -> None:
        for s in slices:
            s.out[...] = 7


def test_a_request_ends_a_walk_and_is_answered() -> None:
    request, reply = os.eventfd(0), os.eventfd(0)
    box = mailbox.Mailbox(memoryview(bytearray(8 * mailbox.WORDS)).cast("q"))
    out = np.zeros((1, 1), np.float32)
    walker = Endless()
    runners = {0: ModelRunner(Nothing(), lambda part: SliceView({}, part.start, part.stop, out))}
    worker = threading.Thread(target=run_loop, args=(request, reply, box, runners), kwargs={"walker": walker})
    worker.start()
    try:
        assert walker.started.wait(10)
        for seq in (1, 2):
            box.post(seq, (mailbox.SliceAddress(0, 0, 0, 1),))
            os.eventfd_write(request, 1)
            os.eventfd_read(reply)
            assert (box.done, out[0, 0]) == (seq, 7)
            out[...] = 0
        assert next(walker.walks) >= 2
    finally:
        box.post(0, ())
        os.eventfd_write(request, 1)
        worker.join(10)
        assert not worker.is_alive()
        os.close(request)
        os.close(reply)

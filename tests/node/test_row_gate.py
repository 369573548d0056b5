"""Rows that are written while others read them: exclusion, and what becomes of it when a reader dies."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from deeprecsys.core.errors import NodeError
from deeprecsys.node.runtime import row_gate
from deeprecsys.node.runtime.row_gate import RowReader, RowWriter
from deeprecsys.node.runtime.segment import Segment

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="rows are written on x86-64 alone")

READER = """
import sys, numpy as np
from deeprecsys.node.runtime.row_gate import RowReader
from deeprecsys.node.runtime.segment import Segment
fd, own, gated = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "gated"
segment = Segment(fd, 1 << 21, writable=True)
words = segment.words()
reader, rows = RowReader(words[own : own + 1], words[0:1]), segment.array(np.float32, (256, 256), 4096)
read = torn = 0
words[own + 16] = 1
while not words[1]:
    if gated:
        with reader:
            found = rows.copy()
    else:
        found = rows.copy()
    torn += int((found.min(1) != found.max(1)).sum())
    read += len(found)
print(read, torn)
"""
"""Copies rows, all of whose values are the same unless a copy met half of a write."""


def share(gated: bool, seconds: float) -> tuple[int, int, int]:
    """Two processes read while this one writes: rows read, rows torn, rows written."""
    segment = Segment.create("rows", 1 << 21)
    words, rows = segment.words(), segment.array(np.float32, (256, 256), 4096)
    writer = RowWriter([words[k : k + 1] for k in (8, 9)], words[0:1])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", READER, str(segment.fd), str(own), "gated" if gated else "free"],
            pass_fds=(segment.fd,), stdout=subprocess.PIPE, text=True,
        )
        for own in (8, 9)
    ]  # fmt: skip
    while not (words[24] and words[25]):
        time.sleep(0.01)
    ids, value, until = np.arange(0, 256, 2), 0.0, time.monotonic() + seconds
    while time.monotonic() < until:
        value += 1.0
        new = np.full((len(ids), 256), value, np.float32)
        if gated:
            writer.write(lambda new=new: rows.__setitem__(ids, new))
        else:
            rows[ids] = new
    words[1] = 1
    found = [[int(n) for n in p.communicate()[0].split()] for p in started]
    segment.close()
    return sum(f[0] for f in found), sum(f[1] for f in found), int(value) * len(ids)


def test_no_row_is_torn_where_readers_and_writer_exclude_each_other_and_some_are_otherwise() -> None:
    read, torn, written = share(gated=True, seconds=1.0)
    assert read > 1000
    assert written > 1000
    assert torn == 0
    assert share(gated=False, seconds=1.0)[1] > 0, "or the test could not have seen one"


def test_a_reader_that_does_not_end_holds_up_the_writer_but_no_other_reader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(row_gate, "GIVE_UP_S", 0.05)
    monkeypatch.setattr(row_gate, "HOLD_S", 0.001)
    words = memoryview(bytearray(8 * 8)).cast("q")
    stuck, other = RowReader(words[1:2], words[0:1]), RowReader(words[2:3], words[0:1])
    writer, written = RowWriter([words[1:2], words[2:3]], words[0:1]), []
    with stuck, pytest.raises(NodeError, match="expected a moment in which no worker reads rows"):
        writer.write(lambda: written.append(1))
    assert not written
    with stuck, other:
        assert words[0] == 0
    writer.write(lambda: written.append(1))
    assert written == [1]
    with pytest.raises(ZeroDivisionError):
        writer.write(lambda: 1 / 0)
    assert words[0] == 0


@pytest.mark.live
def test_a_worker_that_is_killed_while_it_reads_holds_up_no_writer() -> None:
    from tests.serve.harness import SMALL, run, service

    async def scenario() -> None:
        import asyncio

        async with service(SMALL, workers=1) as s:
            (process,) = s._workers._processes.values()
            process.box.reading[0] = 1  # as if it were within a batch
            os.kill(process.pid, signal.SIGKILL)
            await asyncio.to_thread(s._workers.rows.write, lambda: None)

    run(scenario())

"""A model of a device's streams that finds races: accesses to one buffer that no event puts in order.

The engine runs on the CPU, where all work is done as it is issued. These queues record in which stream each
of torch's operations was issued, and what orders the streams: an operation follows what its stream held, the
host's call that issued it, and the events that its stream waited for; the host follows the events that it
waited for. Two accesses of one buffer, one of them a write, of which neither follows the other could run at
the same time on a device. (Vector clocks, as in FastTrack: Flanagan and Freund, PLDI 2009.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from deeprecsys.engine.cuda.engine import DeviceEngine
from deeprecsys.engine.cuda.queues import Mark, Queues

HOST = "host"
Clock = dict[str, int]
"""Thread (the host, or a stream) -> how many of its steps came before."""


def join(clock: Clock, other: Clock) -> None:
    for thread, at in other.items():
        clock[thread] = max(clock.get(thread, 0), at)


class RaceError(AssertionError):
    """Two accesses that nothing orders."""


class Event(Mark):
    """What a stream held when it was marked; the host joins it by `wait`."""

    def __init__(self, streams: Streams, clock: Clock) -> None:
        super().__init__()
        self._streams, self.clock = streams, clock

    def wait(self) -> None:
        join(self._streams.clocks[HOST], self.clock)


class Streams(Queues):
    """Queues that record; `watch` names an engine's buffers."""

    def __init__(self) -> None:
        self.clocks: dict[str, Clock] = {}
        for thread in (HOST, "copy_in", "compute", "copy_out"):
            self.clocks[thread] = {thread: 1}
        self._now = HOST
        self._names: dict[int, str] = {}
        self._writes: dict[str, tuple[str, int]] = {}
        self._reads: dict[str, Clock] = {}
        self.accesses = 0

    @contextlib.contextmanager
    def on(self, queue: str, after: Mark | None = None) -> Iterator[None]:
        if isinstance(after, Event):
            join(self.clocks[queue], after.clock)
        self._now = queue
        try:
            with Recorder(self):
                yield
        finally:
            self._now = HOST

    def mark(self, queue: str) -> Mark:
        return Event(self, dict(self.clocks[queue]))

    def watch(self, engine: DeviceEngine) -> None:
        """Name the buffers of an engine, and record the host's own accesses to them."""
        for name in ("_host_in", "_host_out", "_device_in", "_device_out"):
            for slot, buffer in enumerate(getattr(engine, name)):
                self._names[buffer.untyped_storage().data_ptr()] = f"{name[1:]}[{slot}]"
        fill, collect = engine._fill, engine._collect

        def filled(words: Any, *args: Any) -> None:
            self.access(words.ctypes.data, write=True)
            fill(words, *args)

        def collected(ticket: Any, slices: Any) -> bool:
            found = collect(ticket, slices)  # it waits, then reads
            self.access(ticket.flag.ctypes.data, write=False)
            return found

        engine._fill, engine._collect = filled, collected  # type: ignore[method-assign]

    def access(self, pointer: int, write: bool) -> None:
        """An access to a buffer by the host or by the stream that is issued to.

        Raises:
            RaceError: an earlier one is not known to have ended.
        """
        name = self._names.get(pointer)
        if name is None:
            return
        self.accesses += 1
        thread, clock = self._now, self.clocks[self._now]
        if thread != HOST:
            join(clock, self.clocks[HOST])  # issued by the host, after all that it did
        clock[thread] += 1
        by, at = self._writes.get(name, (thread, 0))
        self._check(name, clock, by, at, "written", write)
        if not write:
            self._reads.setdefault(name, {})[thread] = clock[thread]
            return
        for by, at in self._reads.pop(name, {}).items():
            self._check(name, clock, by, at, "read", write)
        self._writes[name] = (thread, clock[thread])

    def _check(self, name: str, clock: Clock, by: str, at: int, how: str, write: bool) -> None:
        if clock.get(by, 0) < at:
            what = "writes" if write else "reads"
            raise RaceError(f"{self._now} {what} {name}, which {by} has {how} perhaps only later")


class Recorder(TorchDispatchMode):
    """Tells `Streams` what each operation reads and writes; views touch nothing."""

    def __init__(self, streams: Streams) -> None:
        super().__init__()
        self._streams = streams

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        schema, given = func._schema, kwargs or {}
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)
        for place, argument in enumerate(schema.arguments if not view else ()):
            value = args[place] if place < len(args) else given.get(argument.name)
            write = argument.alias_info is not None and argument.alias_info.is_write
            for tensor in value if isinstance(value, list | tuple) else (value,):
                if isinstance(tensor, torch.Tensor):
                    self._streams.access(tensor.untyped_storage().data_ptr(), write)
        return func(*args, **given)

"""A device of a node: its idle workers, and the lines in front of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import inf

from deeprecsys.core.errors import InputError
from deeprecsys.core.policy.base import Take
from deeprecsys.core.query import Query, Slice

LAST = 1 << 62
"""The priority of deferred slices: behind all others."""


class Line:
    """The slices of one model version that wait for a device, by priority, due time and arrival.

    A heap of (priority, due, number, slice). With one priority and due time for all, numbers rise, and the
    heap is a plain queue. Slices that wait for their query's user stage are kept apart, with their places.
    """

    __slots__ = ("_behind", "_heap", "_number", "device", "items", "newest_s", "version")

    def __init__(self, device: str, version: int = 0) -> None:
        self.device = device
        self.version = version
        self.items = 0
        self.newest_s = 0.0
        self._heap: list[tuple[int, float, int, Slice]] = []
        self._behind: dict[int, list[tuple[int, float, int, Slice]]] = {}  # by query
        self._number = 0

    def __bool__(self) -> bool:
        return bool(self._heap)

    @property
    def slices(self) -> int:
        return len(self._heap)

    @property
    def head(self) -> Slice:
        return self._heap[0][3]

    @property
    def deferred(self) -> bool:
        return self._heap[0][0] == LAST

    @property
    def urgency(self) -> tuple[int, float, float]:
        """Priority, deadline and arrival of the head: among several lines the least goes first."""
        priority, _, _, part = self._heap[0]
        return (priority, part.query.deadline_s, part.query.arrival_s)

    def put(self, slices: list[Slice], due_s: float) -> None:
        """Slices of one query, in order."""
        heap, number = self._heap, self._number
        priority = slices[0].query.priority
        for part in slices:
            heappush(heap, (priority, due_s, number, part))
            number += 1
            self.items += part.stop - part.start
        self._number = number
        self.newest_s = slices[-1].query.arrival_s

    def put_staged(self, slices: list[Slice], due_s: float) -> None:
        """The user stage of one query, and its slices, which keep their places until `release`."""
        query = slices[0].query
        self.put([Slice(query, 0, 0)], due_s)
        self._behind[query.id] = [
            (query.priority, due_s, number, part._replace(staged=True))
            for number, part in enumerate(slices, self._number)
        ]
        self._number += len(slices)
        self.items += query.size

    def release(self, query_id: int) -> None:
        """A query's user stage has run: its slices are in the line now."""
        for entry in self._behind.pop(query_id, ()):
            heappush(self._heap, entry)

    def take(self, wanted: Take, most_slices: int) -> tuple[Slice, ...]:
        """Remove and return the slices of a batch, at most `most_slices`."""
        heap = self._heap
        left = wanted.items
        if left is None:
            part = heappop(heap)[3]
            self.items -= part.stop - part.start
            return (part,)
        if left < 1:
            raise InputError(f"policy: Take.items: expected at least 1 item, got {left}")
        taken: list[Slice] = []
        while heap and len(taken) < most_slices:
            priority, due_s, number, part = heap[0]
            items = part.stop - part.start
            if items <= left or not (taken or wanted.split):
                heappop(heap)
            elif left > 0 and wanted.split:
                at = part.start + left
                heap[0] = (priority, due_s, number, part._replace(start=at))  # the same key: still the least
                part = part._replace(stop=at)
                items = left
            else:
                break
            taken.append(part)
            self.items -= items
            left -= items
            if not wanted.merge:
                break
        return tuple(taken)

    def defer(self) -> None:
        """Move all slices of the head's query behind those that are not deferred."""
        heap, query, behind = self._heap, self.head.query, []
        while heap and heap[0][3].query is query:  # put together, they come together
            _, _, number, part = heappop(heap)
            behind.append((LAST, inf, number, part))
        for entry in behind:
            heappush(heap, entry)

    def clear(self) -> list[tuple[float, Slice]]:
        """Remove all slices; in their order, with their due times."""
        entries = sorted(self._all(), key=lambda entry: entry[:3])
        self._heap, self.items = [], 0
        self._behind.clear()
        return [(due_s, part) for _, due_s, _, part in entries]

    def drop(self, query_id: int) -> None:
        """Remove all slices of a query."""
        behind = self._behind.pop(query_id, None)
        kept = [entry for entry in self._heap if entry[3].query.id != query_id]
        if behind or len(kept) < len(self._heap):
            heapify(kept)
            self._heap = kept
            self.items = sum(part.items for part in self)

    def __iter__(self) -> Iterator[Slice]:
        return (part for *_, part in self._all())

    def _all(self) -> list[tuple[int, float, int, Slice]]:
        return [*self._heap, *(entry for behind in self._behind.values() for entry in behind)]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be open, and wait for one device, before queries are shed."""

    queries: int = 1_000_000
    items: int = 1_000_000
    bytes: int = 1 << 32
    bytes_per_item: int = 0
    slices: int = 256
    """The most slices that one batch may hold."""


class Device:
    """A pool of like workers with one waiting line for each model version."""

    __slots__ = ("again", "alive", "held", "idle", "lines", "name", "wake_s")

    def __init__(self, name: str, workers: int) -> None:
        self.name = name
        self.lines: dict[int, Line] = {0: Line(name)}
        self.held: set[int] = set()
        """Versions whose lines the policy holds until `wake_s` at the latest."""
        self.again: deque[Slice] = deque()
        """Slices whose worker died. Each runs again before all others, and alone, to find one that kills."""
        self.wake_s = inf
        self.alive = set(range(workers))
        self.idle = list(range(workers - 1, -1, -1))  # a stack: the worker that was last busy is warm

    @property
    def waits(self) -> bool:
        """Whether anything waits, except what a dead worker left."""
        return any(self.lines.values())

    @property
    def waiting_items(self) -> int:
        return sum(line.items for line in self.lines.values()) + sum(s.items for s in self.again)

    def next_line(self) -> Line | None:
        """The line whose turn it is, among those that are neither empty nor held."""
        if len(self.lines) == 1 and not self.held:
            (line,) = self.lines.values()
            return line or None
        lines = [line for line in self.lines.values() if line and line.version not in self.held]
        if len(lines) < 2:
            return lines[0] if lines else None
        return min(lines, key=lambda line: line.urgency)

    def refusal(self, query: Query, limits: Limits) -> str | None:
        """Why a query that arrives now is refused; None if there is room.

        A query that finds an idle worker and no line never waits, whatever its size.
        """
        if self.idle and not self.waits:
            return None
        waiting = self.waiting_items + query.size
        if waiting > limits.items:
            return f"line of {self.name} full: {limits.items} items"
        if waiting * limits.bytes_per_item > limits.bytes:
            return f"line of {self.name} full: {limits.bytes} bytes"
        return None

    def lost(self, worker: int) -> None:
        """A worker died."""
        self.alive.discard(worker)
        if worker in self.idle:
            self.idle.remove(worker)

    def drop(self, query_id: int) -> None:
        """Drop the slices of a query that no worker has begun."""
        for line in self.lines.values():
            line.drop(query_id)
        self.again = deque(s for s in self.again if s.query.id != query_id)

    def check(self) -> None:
        """Raise AssertionError if an invariant of its lines and workers is broken; for tests."""
        waits = self.again or any(n for v, n in self.lines.items() if v not in self.held)
        assert not (waits and self.idle), f"{self.name}: a worker idles while its line is not empty"
        assert not self.held or self.wake_s < inf, "held for ever"
        for version, line in self.lines.items():
            assert line.items == sum(s.items for s in line)
            assert all(s.query.version == version for s in line)

"""A waiting line: slices in order of priority, then of due time, then of arrival."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from math import inf

from deeprecsys.core.errors import InputError
from deeprecsys.core.policy.base import Take
from deeprecsys.core.query import Slice

LAST = 1 << 62
"""The priority of what is deferred: behind everything else."""


class Line:
    """The slices of one model version that wait for a device, and how many items they hold.

    A heap of (priority, due, number, slice). With one priority and due time for all, numbers rise, and the
    heap is a plain queue.
    """

    __slots__ = ("_heap", "_number", "device", "items", "newest_s", "version")

    def __init__(self, device: str, version: int = 0) -> None:
        self.device = device
        self.version = version
        self.items = 0
        self.newest_s = 0.0
        self._heap: list[tuple[int, float, int, Slice]] = []
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
        """Of several lines, the one whose head is least by this goes first: priority, deadline, arrival."""
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

    def take(self, wanted: Take, most_slices: int) -> tuple[Slice, ...]:
        """Remove and return what a batch is to hold, at most `most_slices` slices."""
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
        """Move all slices of the head's query behind whatever is not deferred."""
        heap, query, behind = self._heap, self.head.query, []
        while heap and heap[0][3].query is query:  # put together, they come together
            _, _, number, part = heappop(heap)
            behind.append((LAST, inf, number, part))
        for entry in behind:
            heappush(heap, entry)

    def clear(self) -> list[tuple[float, Slice]]:
        """Remove all slices; in their order, with their due times."""
        entries = sorted(self._heap, key=lambda entry: entry[:3])
        self._heap, self.items = [], 0
        return [(due_s, part) for _, due_s, _, part in entries]

    def drop(self, query_id: int) -> None:
        """Remove all slices of a query."""
        kept = [entry for entry in self._heap if entry[3].query.id != query_id]
        if len(kept) < len(self._heap):
            self.items = sum(part.items for *_, part in kept)
            heapify(kept)
            self._heap = kept

    def __iter__(self) -> Iterator[Slice]:
        return (part for *_, part in self._heap)

"""One device of a node to the dispatcher: its idle workers, and the lines before them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import inf

from deeprecsys.core.line import Line
from deeprecsys.core.query import Query, Slice


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be open, and wait in one device's line, before queries are shed."""

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
        """Slices whose worker died: each runs again first of all, and alone, so that a bad one shows."""
        self.wake_s = inf
        self.alive = set(range(workers))
        self.idle = list(range(workers - 1, -1, -1))  # a stack: the worker that was last busy is warm

    @property
    def waits(self) -> bool:
        """Whether anything waits, other than what a dead worker left."""
        return any(self.lines.values())

    @property
    def waiting_items(self) -> int:
        return sum(line.items for line in self.lines.values()) + sum(s.items for s in self.again)

    def next_line(self) -> Line | None:
        """The line whose turn it is, of those that hold something and are not held back."""
        if len(self.lines) == 1 and not self.held:
            (line,) = self.lines.values()
            return line or None
        lines = [line for line in self.lines.values() if line and line.version not in self.held]
        if len(lines) < 2:
            return lines[0] if lines else None
        return min(lines, key=lambda line: line.urgency)

    def refusal(self, query: Query, limits: Limits) -> str | None:
        """Why a query that comes now finds no room; None where it does.

        One that finds a worker idle and nothing in line never waits, however large it is.
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
        """A worker is gone."""
        self.alive.discard(worker)
        if worker in self.idle:
            self.idle.remove(worker)

    def drop(self, query_id: int) -> None:
        """Drop the slices of a query that no worker has begun."""
        for line in self.lines.values():
            line.drop(query_id)
        self.again = deque(s for s in self.again if s.query.id != query_id)

    def check(self) -> None:
        """Raise AssertionError if its lines, or its workers beside them, are not as they must be."""
        waits = self.again or any(n for v, n in self.lines.items() if v not in self.held)
        assert not (waits and self.idle), f"{self.name}: a worker idles beside a line"
        assert not self.held or self.wake_s < inf, "held for ever"
        for version, line in self.lines.items():
            assert line.items == sum(s.items for s in line)
            assert all(s.query.version == version for s in line)

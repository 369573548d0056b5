"""Which rows of an arena are free: contiguous runs, the lowest taken first, which keeps used rows compact."""

from __future__ import annotations

from bisect import bisect_left

from deeprecsys.node.runtime.layout import STEP


class Rows:
    """A first-fit allocator of contiguous rows. Freed runs join their neighbours.

    Args:
        rows: how many there are; rounded down to a multiple of `STEP`.
    """

    __slots__ = ("_first", "_length", "free")

    def __init__(self, rows: int) -> None:
        whole = rows // STEP * STEP
        self._first = [0] if whole else []
        self._length = [whole] if whole else []
        self.free = whole
        """Rows that are free, in one run or in several."""

    def fits(self, rows: int) -> bool:
        """Whether `take` would find a run of that length."""
        wanted = -(-rows // STEP) * STEP
        return any(length >= wanted for length in self._length)

    def take(self, rows: int) -> int | None:
        """Take a run of `rows` contiguous rows: its first row, or None if there is no such run."""
        wanted = -(-rows // STEP) * STEP
        for i, length in enumerate(self._length):
            if length < wanted:
                continue
            first = self._first[i]
            if length == wanted:
                del self._first[i], self._length[i]
            else:
                self._first[i] += wanted
                self._length[i] -= wanted
            self.free -= wanted
            return first
        return None

    def give(self, first: int, rows: int) -> None:
        """Give back what `take(rows)` gave."""
        length = -(-rows // STEP) * STEP
        i = bisect_left(self._first, first)
        assert i == len(self._first) or first + length <= self._first[i], "rows were free already"
        assert i == 0 or self._first[i - 1] + self._length[i - 1] <= first, "rows were free already"
        self.free += length
        joins_next = i < len(self._first) and first + length == self._first[i]
        if i and self._first[i - 1] + self._length[i - 1] == first:
            self._length[i - 1] += length
            if joins_next:
                self._length[i - 1] += self._length[i]
                del self._first[i], self._length[i]
        elif joins_next:
            self._first[i] = first
            self._length[i] += length
        else:
            self._first.insert(i, first)
            self._length.insert(i, length)

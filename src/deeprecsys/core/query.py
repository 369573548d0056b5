"""The nouns of scheduling: query, slice, batch. docs/glossary.md has the words."""

from __future__ import annotations

from math import inf
from typing import NamedTuple


class Query(NamedTuple):
    """One user's request to rank `size` candidate items."""

    id: int
    size: int
    arrival_s: float
    """The *intended* arrival, in seconds on the driver's clock; latency counts from here."""
    features: int = 0
    """A handle that the driver turns into feature rows; the core does not read it."""
    version: int = 0
    """Id of the model version that scores it: a batch is of one version. A node with one model has only 0."""
    deadline_s: float = inf
    """When its answer is due, seconds on the driver's clock; infinite if it is never late."""
    firm: bool = False
    """Whether an answer after the deadline is useless. A query that is not firm may be late, as often as the
    target's quantile allows."""
    priority: int = 0
    """Among the queries that wait, smaller values go first."""


class Slice(NamedTuple):
    """Items `start` (included) to `stop` (excluded) of one query; without items, its user stage."""

    query: Query
    start: int
    stop: int
    staged: bool = False
    """Whether the query's user stage has run, and is read instead of being computed again."""

    @property
    def items(self) -> int:
        return self.stop - self.start


class Batch(NamedTuple):
    """The slices that one worker executes at once."""

    id: int
    device: str
    worker: int
    slices: tuple[Slice, ...]

    @property
    def items(self) -> int:
        return sum(s.items for s in self.slices)


def cut(query: Query, batch_size: int, start: int = 0, stop: int | None = None) -> list[Slice]:
    """The query as the fewest slices of at most `batch_size` items, their lengths as equal as can be.

    With `start` and `stop`, these items of the query alone.

    Equal lengths and not full batches with a remainder: the number of slices is the same, and the
    longest one, which decides when an idle node completes the query, is never longer
    (docs/design/0002-equal-slices.md).
    """
    stop = query.size if stop is None else stop
    n = stop - start
    if n <= batch_size:
        return [Slice(query, start, stop)]
    parts = -(-n // batch_size)
    base, longer = divmod(n, parts)
    slices = []
    for i in range(parts):
        stop = start + base + (i < longer)
        slices.append(Slice(query, start, stop))
        start = stop
    return slices

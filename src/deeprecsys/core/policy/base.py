"""What a policy is asked, and what it may answer. A policy decides; the dispatcher carries it out."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from deeprecsys.core.query import Batch, Query, Slice

CPU = "cpu"
GPU = "gpu"


class View(Protocol):
    """What a policy may see of a node when it decides."""

    def workers(self, device: str) -> int:
        """Workers of the device that are alive."""
        ...

    def idle(self, device: str) -> int:
        """Workers of the device with nothing to do."""
        ...

    def waiting_items(self, device: str) -> int:
        """Items in the device's line, not yet started."""
        ...


class LineView(Protocol):
    """What a policy may see of a device's line, which is not empty, when it forms a batch."""

    @property
    def device(self) -> str: ...

    @property
    def head(self) -> Slice:
        """The slice that comes first."""
        ...

    @property
    def items(self) -> int:
        """Items waiting."""
        ...

    @property
    def slices(self) -> int:
        """Slices waiting."""
        ...

    @property
    def newest_s(self) -> float:
        """Arrival of the query that was put into the line last."""
        ...

    @property
    def deferred(self) -> bool:
        """Whether the head has been deferred: then so are all others."""
        ...


class Placement(NamedTuple):
    """Where a query goes, and how it waits there."""

    device: str
    batch_size: int
    """It is cut on arrival into slices of at most so many items."""
    due_s: float = 0.0
    """Lines are in order of this; by default of arrival."""


class Take(NamedTuple):
    """Form a batch from the head of the line, now.

    With `split`, a slice is cut where the batch is full, and its rest stays at the head. Without, slices
    stay whole: the first is taken whatever its length.
    """

    items: int | None = None
    """At most so many; None: the head slice as it is."""
    merge: bool = False
    """Whether slices behind the head may fill the batch up."""
    split: bool = True


class Hold(NamedTuple):
    """Start nothing yet: ask again at `until_s`, later than now, or when something happens before."""

    until_s: float


class Defer(NamedTuple):
    """Let the head's query wait until nothing is left that is not deferred."""


Forming = Take | Hold | Defer


class Policy(Protocol):
    """Decides where a query runs, how finely it is cut, and what shares a batch.

    A policy is a frozen, hashable value; one that learns as it runs hands out a fresh state by `begin`.
    """

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that this policy may place queries on."""
        ...

    @property
    def mixes(self) -> bool:
        """Whether slices of several queries may share a batch: then other bounds hold."""
        ...

    def begin(self) -> Rules:
        """The rules of one run; the policy itself where nothing is remembered."""
        ...

    def describe(self) -> dict[str, Any]:
        """Name and knobs, for reports; `batch_size` and `offload_above` are always among them."""
        ...


class Rules(Protocol):
    """A policy in force."""

    def place(self, query: Query, view: View, now_s: float) -> Placement:
        """The placement of a query that arrives at `now_s` at a node that looks like `view`."""
        ...

    def form(self, line: LineView, view: View, now_s: float) -> Forming:
        """What a worker of `line.device` that is idle at `now_s` is to do."""
        ...

    def finished(self, batch: Batch, took_s: float) -> None:
        """A batch took so long, from its start to the news of its end."""
        ...


SLICE = Take()
"""The slice at the head, as it was cut on arrival."""
WHOLE = 1 << 62
"""A batch size that cuts nothing."""


class PolicyBase:
    """What most policies share: all on the CPU, first come first served, slices alone, nothing learnt."""

    __slots__ = ()

    @property
    def devices(self) -> tuple[str, ...]:
        return (CPU,)

    @property
    def mixes(self) -> bool:
        return False

    def begin(self) -> Rules:
        return self

    def place(self, query: Query, view: View, now_s: float) -> Placement:
        return Placement(CPU, WHOLE)

    def form(self, line: LineView, view: View, now_s: float) -> Forming:
        return SLICE

    def finished(self, batch: Batch, took_s: float) -> None:
        pass

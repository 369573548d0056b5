"""The interface between the network's side and what scores queries, with its records and errors.

A request is decoded straight into the place that the backend reserved for the query, and the scores are
encoded from where a worker wrote them. All of a backend runs on one asyncio loop; nothing blocks it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import nan
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from deeprecsys.core.allowance import NOTHING, Allowance, Limit
from deeprecsys.core.target import Target
from deeprecsys.zoo.jagged import InputRows
from deeprecsys.zoo.schema import Schema


class Reason(StrEnum):
    """Why a query was refused."""

    OVERLOAD = "overload"  # the line is full, in queries, items or bytes
    LATE = "late"  # it would miss its deadline, by the predicted completion
    DRAINING = "draining"  # the server is about to stop
    NOT_READY = "not_ready"  # the model has no worker


class RefusedError(Exception):
    """A query was not taken; it may be sent again after `retry_after_s` seconds."""

    def __init__(self, reason: Reason, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.reason, self.retry_after_s = reason, retry_after_s


class UnscoredError(Exception):
    """A query was taken but could not be scored.

    Attributes:
        bad_input: whether the query is at fault (an id outside its table) rather than the server.
    """

    def __init__(self, message: str, bad_input: bool) -> None:
        super().__init__(message)
        self.bad_input = bad_input


class RetiredError(UnscoredError):
    """A query named a version of the weights that was replaced before the query was complete."""

    def __init__(self, model: str, named: str, current: str) -> None:
        super().__init__(
            f"model {model!r}: expected version {current}, got {named!r}, which was replaced before the "
            "query was complete",
            bad_input=True,
        )


class QueryOutcome(StrEnum):
    """How a query ended."""

    SERVED = "served"
    SHED = "shed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class QueryRecord:
    """One ended query. Times are in seconds on the monotonic clock; nan where it did not get there.

    Attributes:
        arrival_s: when its headers were there; start_s: when its first slice went to a worker;
        finish_s: when its last slice was back.
        compute_s: sum of the times in which workers ran its slices (a shared batch counts whole).
        slices: how many it was cut into.
        reason: of a refusal or a failure; "" of a served query.
    """

    id: int
    model: str
    items: int
    arrival_s: float
    start_s: float
    finish_s: float
    compute_s: float
    slices: int
    outcome: QueryOutcome
    reason: str = ""


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """One batch that a worker of a device ran: of which model, how many items in how many slices."""

    model: str
    device: str
    worker: int
    items: int
    slices: int
    posted_s: float
    started_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """How a model is served right now, since when (monotonic seconds), and why.

    Attributes:
        policy: its name for `--policy`; batch_size, offload_above: its knobs, None where it has none.
        capacity_qps: the highest load within the target, as simulated; None if unknown.
        allowance: under what that load still meets the target, and `limit`: what keeps it from being higher.
        pinned: live retuning leaves it alone.
    """

    policy: str
    batch_size: int | None
    offload_above: int | None
    capacity_qps: float | None
    since_s: float
    why: str
    pinned: bool = False
    allowance: Allowance = NOTHING

    @property
    def limit(self) -> Limit | None:
        return None if self.capacity_qps is None else self.allowance.limit(self.capacity_qps)


class LateAnswers(NamedTuple):
    """Answers of a model that were later than its target, queries with a timeout of their own apart.

    Attributes:
        total: since the start; left: how many more queries may be late now (`core.deadlines.LateBudget`).
    """

    total: int
    left: float


class NodeLoad(NamedTuple):
    """How loaded a node is.

    Attributes:
        headroom: share of its capacity at its targets that is free, at most 1, below 0 above capacity
            (`core.headroom`); rate_qps: queries per second that are offered, of all models.
    """

    headroom: float
    rate_qps: float


READY, LOADING, UNAVAILABLE = "READY", "LOADING", "UNAVAILABLE"
"""States of a version, in the words of the repository extension."""


class HeldVersion(NamedTuple):
    """A version of a model's weights that a server holds, or held last; `reason` says why it is not ready."""

    version: str
    state: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as clients see it.

    Attributes:
        version: its weights' version, "1" at first; ready: whether queries are taken.
        held: all versions that are held; () means that one alone.
        since_s: when that began to serve, on the monotonic clock; nan if unknown.
        max_items: the most items of a query; engine: of the CPU workers; split: False where items are scored
            together.
        config: how it is served, for the protocol's `config` extension; plain JSON values.
        finite: whether scores that are infinite or NaN are an error; else clients get them.
    """

    name: str
    version: str
    schema: Schema
    target: Target
    max_items: int
    engine: str
    ready: bool
    split: bool
    config: Mapping[str, Any]
    finite: bool = True
    held: tuple[HeldVersion, ...] = ()
    since_s: float = nan

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions that can score, the one that serves last."""
        others = (v.version for v in self.held if v.state == READY and v.version != self.version)
        return (*others, self.version)


NO_IDS: Mapping[str, int] = {}


class Seat(Protocol):
    """A query's place in the node's memory, from `reserve` to `release`."""

    @property
    def id(self) -> int:
        """The query's id, as in its record."""

    @property
    def version(self) -> str:
        """The version of the weights that scores it, from `score` on."""

    @property
    def inputs(self) -> Mapping[str, InputRows]:
        """By input name, where the features go, uninitialised: [items, width] float32 for a dense input,
        [items, lookups] int32 for a sparse one, `Ids` for a jagged one, to be `put`; first dimension 1 for an
        input per query."""

    @property
    def blocks(self) -> Sequence[NDArray[Any]]:
        """The memory of `inputs` by `Schema.blocks`: [inputs, rows, width] for each block, where the rows of
        one input are contiguous."""


class QueryListener(Protocol):
    """Called when something has happened; must return at once."""

    def query_ended(self, record: QueryRecord) -> None: ...

    def batch_ended(self, record: BatchRecord) -> None: ...

    def point_changed(self, model: str, point: OperatingPoint) -> None: ...


class Backend(Protocol):
    """Scores queries on one event loop."""

    @property
    def models(self) -> Mapping[str, ServedModel]: ...

    @property
    def ready(self) -> bool:
        """Whether every model takes queries and answers them within its target; False as soon as draining
        begins."""

    @property
    def workers(self) -> Mapping[str, int]:
        """Workers alive, by device."""

    @property
    def hung(self) -> int:
        """Workers that were replaced since they did not reply to a batch."""

    @property
    def load(self) -> NodeLoad:
        """How loaded it is now; cheap enough for every answer."""

    def waiting(self, model: str) -> tuple[int, int]:
        """Queries that are open, and items of them that no worker has begun."""

    def point(self, model: str) -> OperatingPoint: ...

    def late(self, model: str) -> LateAnswers: ...

    def reserve(
        self,
        model: str,
        items: int,
        *,
        arrival_s: float,
        deadline_s: float | None = None,
        priority: int = 0,
        version: str = "",
        ids: Mapping[str, int] = NO_IDS,
    ) -> Seat:
        """A place for a query of `items` items; it must be released, whatever happens.

        Args:
            arrival_s: when the request's headers were read, on the monotonic clock.
            deadline_s: monotonic time by which the answer must leave; None takes the model's target.
            priority: smaller goes first among what waits.
            version: of the weights that must score it; "" takes the one that is served when it is complete.
            ids: how many it has in each jagged input, by name.

        Raises:
            RefusedError: the query cannot be taken, or would be late; counted as shed.
            KeyError: no such model.
        """

    def admit(self, model: str, items: int, *, arrival_s: float, deadline_s: float | None = None) -> None:
        """Raise what `reserve` would raise now, without taking a place; a refusal counts as shed.

        Called before a large body is read: with the least number of items that its length allows and no
        deadline (infinite), then with what the request's head states.
        """

    async def score(self, seat: Seat) -> NDArray[Any]:
        """Score a seat whose inputs are filled: float32 [items, outputs], valid until `release`.

        From now on the query belongs to one version of the weights, which is kept until it has ended.
        Cancelling the awaiting task cancels the query: slices not begun are dropped.

        Raises:
            RefusedError: it waited past its deadline. RetiredError: the version that it names is not held any
            more. UnscoredError: it could not be scored.
        """

    def release(self, seat: Seat, *, valid: bool = True) -> None:
        """Give the place back. A seat never scored leaves no record.

        Args:
            valid: whether its scores could be used; else it does not count as load.
        """

    def listen(self, listener: QueryListener) -> Callable[[], None]:
        """Tell a listener from now on; returns what ends that."""

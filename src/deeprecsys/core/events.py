"""Events that a dispatcher handles, and the commands that it returns, as values."""

from __future__ import annotations

from typing import NamedTuple

from deeprecsys.core.deadlines import Forecast
from deeprecsys.core.policy import Policy
from deeprecsys.core.query import Batch, Query


# Events: what happened.
class Arrive(NamedTuple):
    """A query arrived."""

    query: Query


class Finish(NamedTuple):
    """A worker finished a batch; `errors` names the queries of it that could not be scored."""

    batch: Batch
    errors: tuple[tuple[int, str], ...] = ()


class Lost(NamedTuple):
    """A worker died, with the batch that it was running.

    `begun`: whether it had begun to score it; `killed`: whether it was ended from outside, or was not seen to
    go on, so that the batch need not be the cause.
    """

    device: str
    worker: int
    begun: bool = True
    killed: bool = False


class Ready(NamedTuple):
    """A worker that had died is replaced."""

    device: str
    worker: int


class Tick(NamedTuple):
    """The time `Dispatcher.wake_s` has come; nothing else happened."""


class Cancel(NamedTuple):
    """The query's answer is no longer wanted: what no worker has begun of it is dropped."""

    query: Query


class Adopt(NamedTuple):
    """From now on a model version, which may be new, is served under this policy.

    What waits stays as it was placed and cut; what is formed of it is the new policy's choice.
    """

    version: int
    policy: Policy
    forecast: Forecast | None = None
    """Predicts the batch times of a version whose queries have deadlines."""


class Retire(NamedTuple):
    """A model version that has no open queries is no longer served."""

    version: int


class Refused(NamedTuple):
    """A query was refused before it arrived: a miss of its model's target."""

    query: Query


Event = Arrive | Finish | Lost | Ready | Tick | Cancel | Adopt | Retire | Refused


# Commands: what the driver is to do, and what became of a query.
class Start(NamedTuple):
    """Run the batch on `batch.worker` of `batch.device`."""

    batch: Batch


class Complete(NamedTuple):
    """All items of the query are scored."""

    query: Query


class Fail(NamedTuple):
    """The query cannot be answered."""

    query: Query
    reason: str


class Shed(NamedTuple):
    """The query was refused: the line is full, or its answer would be too late."""

    query: Query
    reason: str
    late: bool = False


Command = Start | Complete | Fail | Shed

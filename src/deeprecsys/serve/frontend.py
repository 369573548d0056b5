"""What HTTP and gRPC share: which model a request means, and a query from its reservation to its scores."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable
from typing import Any

from numpy.typing import NDArray

from deeprecsys.node.service.backend import (
    Backend,
    QueryOutcome,
    QueryRecord,
    RefusedError,
    Seat,
    ServedModel,
    UnscoredError,
)
from deeprecsys.serve.memory import BufferPool
from deeprecsys.serve.metrics.counters import Counters
from deeprecsys.serve.protocol.describe import index_document
from deeprecsys.serve.protocol.errors import ForbiddenError, NotFoundError, shown
from deeprecsys.serve.protocol.inputs import Binary, HeaderCache, Inputs, ValidatedRequest
from deeprecsys.serve.protocol.request import Request
from deeprecsys.serve.protocol.values import BodyLayout, all_finite, fill, not_finite
from deeprecsys.serve.repository import OFF, Repository

LARGE_BODY_BYTES = 1 << 16
"""A smaller body comes in one piece, and its query is only asked for by `reserve`."""


class Frontend:
    """A backend as requests see it.

    A query is asked for twice: `admit`, before its body, by the length of that; then `reserve`, by its head.

    Attributes:
        pool: the memory of requests, whatever they come by. stopping: whether open calls should end.
    """

    stopping = False

    def __init__(self, backend: Backend, counters: Counters, repository: Repository | None = None) -> None:
        self.backend, self.counters, self._repository = backend, counters, repository
        self._inputs: dict[str, Inputs] = {}
        self.heads, self.pool = HeaderCache(), BufferPool()

    def model(self, name: str, version: str = "") -> ServedModel:
        """The model of that name.

        Raises:
            NotFoundError: there is none, or not in that version ("" takes the one that is served).
        """
        found = self.backend.models.get(name)
        if found is None:
            raise NotFoundError(f"model {shown(name)}: expected one of {', '.join(self.backend.models)}")
        if version and version not in found.versions:
            raise NotFoundError(f"model {name!r}: expected version {found.version}, got {shown(version)}")
        return found

    def repository(self, authorization: str, origin: str = "") -> Repository:
        """What changes weights, for a request that may; arguments and errors are those of its `authorise`.

        Raises:
            ForbiddenError: nobody may.
        """
        if self._repository is None:
            raise ForbiddenError(OFF)
        self._repository.authorise(authorization, origin)
        return self._repository

    def index(self) -> list[dict[str, str]]:
        """The versions of all models, as the repository extension lists them."""

        def refused(model: str) -> tuple[str, str]:
            last = self.counters.of(model).last_load
            return (last.version, last.refused) if last else ("", "")

        return index_document(self.backend.models, refused)

    def inputs(self, model: ServedModel) -> Inputs:
        """What the model's requests are checked against."""
        found = self._inputs.get(model.name)
        if found is None or found.schema is not model.schema or found.max_items != model.max_items:
            found = self._inputs[model.name] = Inputs(model.schema, model.max_items)
        return found

    def admit(self, model: ServedModel, body_bytes: int, arrival_s: float) -> None:
        """Refuse a large body before it is read, if no query of its length can be taken.

        Its deadline is unknown yet, so that none counts.

        Raises:
            RefusedError: the queue is full, or the server is not ready or stops.
        """
        if body_bytes > LARGE_BODY_BYTES:
            least = min(self.inputs(model).least_items(body_bytes), model.max_items)
            self.backend.admit(model.name, least, arrival_s=arrival_s, deadline_s=math.inf)

    def reserve(
        self,
        model: ServedModel,
        request: Request,
        validated: ValidatedRequest,
        arrival_s: float,
        version: str = "",
    ) -> OpenQuery:
        """A query with a seat; its block must be left.

        Args:
            version: of the model's weights, as the request names it.

        Raises:
            RefusedError: it cannot be taken.
        """
        seat = self.backend.reserve(
            model.name,
            validated.items,
            arrival_s=arrival_s,
            deadline_s=request.deadline_s(arrival_s),
            priority=request.priority,
            version=version,
            ids=validated.ids,
        )
        return OpenQuery(self, model, validated, seat)

    def record_refused(self, model: ServedModel, arrival_s: float, error: RefusedError) -> None:
        """Count a query that was refused without the backend."""
        now, nan = time.monotonic(), math.nan
        self.counters.query_ended(
            QueryRecord(
                -1, model.name, 0, arrival_s, nan, now, 0.0, 0, QueryOutcome.SHED, error.reason
            )
        )  # fmt: skip


class OpenQuery:
    """A query with a seat in the node's memory, which is given back at the end of its block."""

    __slots__ = ("_fill_s", "_frontend", "_model", "_scored_s", "_validated", "seat")

    def __init__(
        self, frontend: Frontend, model: ServedModel, validated: ValidatedRequest, seat: Seat
    ) -> None:
        self._frontend, self._model, self._validated, self.seat = frontend, model, validated, seat
        self._fill_s = self._scored_s = 0.0

    def __enter__(self) -> OpenQuery:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._frontend.backend.release(self.seat, valid=not isinstance(error, UnscoredError))

    def fill(self, data: Binary | BodyLayout) -> None:
        """Write the request's values into the seat, and check them.

        Raises:
            RequestError: a value is wrong.
        """
        begin = time.monotonic()
        validated = self._validated
        fill(validated, data, self.seat)
        if validated.packed is None:  # lists of numbers take many times as much as the text that they came as
            for t in validated.tensors:
                for part in (t.tensor, t.lengths, t.weights):
                    if part:
                        part.data = None
        self._fill_s = time.monotonic() - begin

    def score(self) -> Awaitable[NDArray[Any]]:
        """The scores, to be awaited and `checked`.

        Raises:
            RefusedError: the query waited past its deadline; RetiredError; UnscoredError.
        """
        return self._frontend.backend.score(self.seat)

    def checked(self, scores: NDArray[Any]) -> NDArray[Any]:
        """Scores, float32 [items, outputs], valid within the block.

        Raises:
            UnscoredError: they are not finite, and their owner does not let them pass.
        """
        self._scored_s = time.monotonic()
        if self._model.finite and not all_finite(scores):
            self._frontend.counters.not_finite(self._model.name)
            raise UnscoredError(f"{self._model.name}: {not_finite('scores', scores)}", bad_input=False)
        return scores

    def answered(self) -> None:
        """The reply is encoded: count the query's times."""
        now = time.monotonic()
        self._frontend.counters.answered(self._model.name, self.seat.id, self._fill_s, self._scored_s, now)

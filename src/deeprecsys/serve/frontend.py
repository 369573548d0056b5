"""What both network faces share: which model a request means, and from its arrival to its scores."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from numpy.typing import NDArray

from deeprecsys.node.service.backend import Backend, QueryOutcome, QueryRecord, RefusedError, ServedModel
from deeprecsys.serve.http.header_cache import HeaderCache
from deeprecsys.serve.http.zero_copy import BodyLayout
from deeprecsys.serve.metrics.counters import Counters
from deeprecsys.serve.protocol.errors import GoneError, NotFoundError, shown
from deeprecsys.serve.protocol.fill import check_finite, fill
from deeprecsys.serve.protocol.inputs import Binary, Inputs, ValidatedRequest
from deeprecsys.serve.protocol.reply import check_outputs
from deeprecsys.serve.protocol.request import Request, parse_head

T = TypeVar("T")
LARGE_BODY_BYTES = 1 << 16  # what comes in one piece anyhow is not worth a look ahead


class Frontend:
    """A backend, as requests see it."""

    def __init__(self, backend: Backend, watch: Counters) -> None:
        self.backend, self.watch = backend, watch
        self._inputs: dict[str, Inputs] = {}
        self._heads = HeaderCache()

    def model(self, name: str, version: str = "") -> ServedModel:
        """The model of that name.

        Raises:
            NotFoundError: there is none, or not in that version ("" takes what is served).
        """
        found = self.backend.models.get(name)
        if found is None:
            raise NotFoundError(f"model {shown(name)}: expected one of {', '.join(self.backend.models)}")
        if version and version != found.version:
            raise NotFoundError(f"model {name!r}: expected version {found.version}, got {shown(version)}")
        return found

    def inputs(self, served: ServedModel) -> Inputs:
        """What the model's requests are checked against."""
        found = self._inputs.get(served.name)
        if found is None or found.schema is not served.schema or found.max_items != served.max_items:
            found = self._inputs[served.name] = Inputs(served.schema, served.max_items)
        return found

    def admit_unread(self, served: ServedModel, body_bytes: int, arrival_s: float) -> None:
        """Refuse a large body that is still to come, if nothing of its size can be taken.

        Its deadline is not known yet, so none counts.

        Raises:
            RefusedError: the line is full, or the server is not ready or stops.
        """
        if body_bytes > LARGE_BODY_BYTES:
            least = min(self.inputs(served).least_items(body_bytes), served.max_items)
            self.backend.admit(served.name, least, arrival_s=arrival_s, deadline_s=math.inf)

    def shed(self, served: ServedModel, arrival_s: float, error: RefusedError) -> None:
        """Count a query that was refused before the backend heard of it."""
        self.watch.query_ended(
            QueryRecord(
                -1,
                served.name,
                0,
                arrival_s,
                math.nan,
                time.monotonic(),
                0.0,
                0,
                QueryOutcome.SHED,
                error.reason,
            )
        )

    def read_head(self, served: ServedModel, head: bytes) -> tuple[Request, ValidatedRequest]:
        """The JSON part of an HTTP body, held against its model.

        Raises:
            RequestError: it cannot be read, or does not fit.
        """
        inputs = self.inputs(served)
        found = self._heads.find(inputs, head)
        if found is None:
            request = parse_head(head)
            found = request, self.fit(served, request)
            self._heads.keep(inputs, head, *found)
        return found

    def fit(self, served: ServedModel, request: Request) -> ValidatedRequest:
        """A request held against its model.

        Raises:
            RequestError: it does not fit.
        """
        check_outputs(request)
        return self.inputs(served).fit(request)

    async def answer(
        self,
        served: ServedModel,
        request: Request,
        fit: ValidatedRequest,
        binary: Binary | Callable[[Sequence[memoryview]], Awaitable[None]],
        arrival_s: float,
        encode: Callable[[NDArray[Any]], T],
        scored: Callable[[Awaitable[NDArray[Any]]], Awaitable[NDArray[Any]]] | None = None,
    ) -> T:
        """Score a request, and encode its scores while they are there.

        Args:
            binary: what follows the request's JSON part, if it has one; or what reads it into memories, of a
                request that `goes_straight`.
            scored: awaits the scores; may give up on them.

        Raises:
            RequestError, RefusedError, UnscoredError: see there and `Backend`.
        """
        backend, clock = self.backend, time.monotonic
        seat = backend.reserve(
            served.name,
            fit.items,
            arrival_s=arrival_s,
            deadline_s=request.deadline_s(arrival_s),
            priority=request.priority,
        )
        try:
            if callable(binary):
                places = seat.blocks
                straight = BodyLayout(fit, places)
                await binary(straight.memories)
                begin = clock()
                straight.finish()
                check_finite(fit, places)
            else:
                begin = clock()
                fill(fit, binary, seat)
            filled = clock()
            coming = backend.score(seat)
            try:
                scores = await (scored(coming) if scored else coming)
            except RefusedError as e:
                raise MissedError(e.reason, str(e), e.retry_after_s) from e
            back = clock()
            answer = encode(scores)
            self.watch.answered(served.name, seat.id, filled - begin, back, clock())
            return answer
        finally:
            backend.release(seat)


async def unless_gone(coming: Awaitable[T], watch: Callable[[Callable[[], None]], Callable[[], object]]) -> T:
    """Await something, unless the client goes away first.

    Args:
        watch: calls what it is given when the client has; returns what ends that.

    Raises:
        GoneError: it has; what was awaited is cancelled.
    """
    task = asyncio.current_task()
    assert task is not None
    left = False

    def gone() -> None:
        nonlocal left
        if not left:
            left = True
            task.cancel()

    unwatch = watch(gone)
    try:
        return await coming
    except asyncio.CancelledError:
        if not left:
            raise
        task.uncancel()
        raise GoneError from None
    finally:
        unwatch()


class MissedError(RefusedError):
    """A query was taken, but waited past its deadline."""

"""A model as a service holds it: configuration, memory, versions of its weights, reservations."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from functools import cached_property
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.allowance import NOTHING, Allowance
from deeprecsys.core.deadlines import Forecast, LateBudget, Readiness, batch_seconds
from deeprecsys.core.errors import InputError
from deeprecsys.core.headroom import Load, OfferedMix
from deeprecsys.core.policy import GPU, Policy
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.core.query import Query
from deeprecsys.core.target import Target
from deeprecsys.core.work import ItemWork, units
from deeprecsys.engine import EngineSpec
from deeprecsys.node.runtime.layout import DENSE, ModelLayout, QueryArena, VersionSpec, check_stage
from deeprecsys.node.runtime.segment import Segment
from deeprecsys.node.runtime.tables import Progress, Weights, check_copies
from deeprecsys.node.service.arena import Arena
from deeprecsys.node.service.backend import (
    LOADING,
    READY,
    UNAVAILABLE,
    HeldVersion,
    OperatingPoint,
    Reason,
    RefusedError,
    RetiredError,
    ServedModel,
)
from deeprecsys.node.service.rows import Rows
from deeprecsys.zoo import model
from deeprecsys.zoo.jagged import Ids, InputRows
from deeprecsys.zoo.schema import Schema, SparseInput

UNLOADED = "the model is unloaded"
KEPT = 20_000
"""Latest arrivals that are kept, for live retuning."""


@dataclass(frozen=True)
class ModelConfig:
    """A model to be served, and how.

    Attributes:
        name: its name for clients; model: its name for `zoo.model`, "" where that is the same.
        target: the latency target; policy: how queries become batches; profile: batch times on the CPU.
        rows_scale: factor on the rows of its tables; seed: of tables and weights.
        engine, precision: what scores it on the CPU.
        gpu: engine of the service's accelerators for this model; None where the CPU scores all of it.
        gpu_profile: batch times there; None if they are not known.
        max_items: the most items of a query; max_queries: the most open queries.
        most_bytes: the most bytes of features and scores of open queries.
        why: how the policy was chosen; allowance: of the load that is announced.
        pinned: live retuning leaves the policy as it is.
        split: False where items are scored together: such a query is never cut nor merged.
        finite: whether scores that are infinite or NaN are an error.
        shed_late: refuse nearly every query that would be late, even within the target's quantile.
    """

    name: str
    target: Target
    policy: Policy
    profile: LatencyProfile
    rows_scale: float = 1.0
    seed: int = 0
    engine: str = "compiled"
    precision: str = "fp32"
    max_items: int = 1000
    max_queries: int = 1024
    most_bytes: int = 128 << 20
    allowance: Allowance = NOTHING
    why: str = "configured"
    pinned: bool = False
    split: bool = True
    model: str = ""
    gpu: str | None = None
    gpu_profile: LatencyProfile | None = None
    finite: bool = True
    shed_late: bool = False

    def __post_init__(self) -> None:
        check_scores(self.gpu)
        self.check_devices(self.policy)

    def check_devices(self, policy: Policy) -> None:
        """Raise InputError if a policy offloads and the model has no accelerator, or runs user stages and
        there are none."""
        check_stage(policy, model(self.known_as), self.engine)
        if GPU in policy.devices and not self.gpu:
            raise InputError(
                f"{self.name}: gpu: expected an engine, as policy {policy.name} offloads, got none"
            )

    @property
    def known_as(self) -> str:
        """Its name for `zoo.model`."""
        return self.model or self.name


@dataclass(eq=False)
class ModelVersion:
    """One version of a model's weights, with its tables.

    Attributes:
        dense: the dense stage's weights (`zoo.tensor_file`); None for the seed's, or the model's own.
        ready: whether every worker holds it, so that it can score.
        since_s: when it began to serve, on the monotonic clock.
    """

    id: int
    version: str
    weights: Weights
    tables: Segment
    dense: Segment | None = None
    ready: bool = False
    since_s: float = nan

    @classmethod
    def create(
        cls,
        id_: int,
        version: str,
        weights: Weights,
        served: ModelVersion,
        layout: ModelLayout,
        progress: Progress,
    ) -> ModelVersion:
        """A version with its memory.

        Args:
            served: the one that serves now, whose tables may be kept.

        Raises:
            InputError: it does not fit in memory, or its weights are not the model's.
        """
        tables = served.tables.share() if weights.keep_tables else layout.load_tables(weights, progress)
        try:
            dense = None
            if weights.dense:
                content = weights.dense()
                dense = Segment.create("dense", len(content))
                dense.memory.raw = content
            elif weights.keep_tables:
                raise InputError(f"version {version}: expected weights of the dense stage, got none")
        except BaseException:
            tables.close()
            raise
        return cls(id_, version, weights, tables, dense)

    @property
    def fds(self) -> dict[str, int]:
        return {"tables": self.tables.fd} | ({DENSE: self.dense.fd} if self.dense else {})

    def close(self) -> None:
        """Give the memory back."""
        self.tables.close()
        if self.dense:
            self.dense.close()


def check_scores(gpu: str | None) -> None:
    """Raise InputError if the engine of accelerators is an emulated one: queries would get no answer."""
    if gpu and EngineSpec.parse(gpu).emulated:
        raise InputError(
            f"gpu: expected an engine that scores, got {gpu}: an emulated accelerator replays batch times "
            "and has no scores to answer with"
        )


class State(Enum):
    """How far a query is."""

    RESERVED = auto()  # its features are being written
    OPEN = auto()  # it waits or runs
    ENDED = auto()


@dataclass(eq=False, slots=True)
class Reservation:
    """A query's place in memory: `backend.Seat`.

    It belongs to no version of the weights while its features are written: that takes as long as a client
    likes, and a version cannot be dropped before its last query has ended.

    Attributes:
        items: of the query, whose `size` is its work from `bind` on; rows: that it takes.
        work: of a query with jagged inputs, from `bind` on: [items + 1] the work before each item.
        version: the one that was asked for, or "", until `bind`.
        released: the client's side no longer needs it.
        valid: whether it was complete, and has not failed.
        probe: no client's: it is in no record.
    """

    query: Query
    served: HostedModel
    row: int
    slot: int
    items: int
    rows: int
    version: str = ""
    state: State = State.RESERVED
    released: bool = False
    valid: bool = False
    answer: asyncio.Future[None] | None = None
    start_s: float = nan
    compute_s: float = 0.0
    parts: int = 0
    probe: bool = False
    work: NDArray[np.float64] | None = None

    @property
    def id(self) -> int:
        return self.query.id

    def bind(self) -> None:
        """Take the version that scores the query, which is complete.

        Raises:
            RetiredError: the one that was asked for is not held any more.
        """
        found = self.served.version(self.version)
        self.query, self.version = self.query._replace(version=found.id), found.version
        if (lookups := self.served.arena.lookups(self.row, self.items)) is not None:
            self.work = self.served.weight.before(lookups)
            self.query = self.query._replace(size=units(self.work))

    @property
    def inputs(self) -> Mapping[str, InputRows]:
        return self.served.arena.seat(self.row, self.slot, self.items, self.rows)

    @property
    def blocks(self) -> Sequence[NDArray[Any]]:
        return self.served.arena.seat_blocks(self.row, self.slot, self.items)

    @property
    def scores(self) -> NDArray[Any]:
        """Where workers write: float32 [items, outputs]."""
        return self.served.arena.scores[self.row : self.row + self.items]


@dataclass(eq=False)
class HostedModel:
    """A model in service."""

    config: ModelConfig
    arena: Arena
    rows: Rows
    slots: list[int]
    forecast: Forecast
    versions: list[ModelVersion]
    current: ModelVersion
    policy: Policy
    point: OperatingPoint
    open: int = 0
    """Queries that wait or run."""
    offered: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=KEPT))
    """Arrival and items of the latest valid queries, also refused and cancelled ones: what live retuning
    goes by. Malformed and failed ones do not count."""
    mix: OfferedMix = field(default_factory=OfferedMix)
    """The pace and sizes of valid queries, also refused ones: what headroom goes by."""
    readiness: Readiness = field(default_factory=Readiness)
    allowance: Allowance = NOTHING
    """What the announced load leaves room for: the network face and a margin."""
    _described: tuple[tuple[bool, str, Policy, tuple[HeldVersion, ...]], ServedModel] | None = None

    @classmethod
    def create(
        cls, config: ModelConfig, version_id: int, workers: int, now_s: float, progress: Progress
    ) -> HostedModel:  # fmt: skip
        """The model with its memory, its tables filled from the seed.

        Raises:
            InputError: it does not fit.
        """
        inputs = QueryArena.sized(
            config.known_as,
            model(config.known_as).scaled(config.rows_scale).schema,
            max_items=config.max_items,
            max_queries=config.max_queries,
            most_bytes=config.most_bytes,
        )
        check_copies(config.known_as, workers)
        layout = ModelLayout(config.known_as, config.rows_scale, config.precision, inputs)
        weights = Weights(config.seed)
        budget, gpu = LateBudget(config.target.miss_rate, config.shed_late), None
        if config.gpu and config.gpu_profile:
            gpu = Forecast(batch_seconds(config.gpu_profile, 1, config.max_items), None, False, budget)
        seconds = batch_seconds(config.profile, workers, config.max_items)
        forecast = Forecast(seconds, None, False, budget, gpu)
        allowed = config.allowance
        point = point_of(config.policy, None, now_s, config.why, config.pinned, allowed)
        slots = list(range(inputs.slots - 1, -1, -1))
        arena, rows = Arena.create(layout), Rows(inputs.rows)
        try:
            tables = layout.load_tables(weights, progress)
            first = ModelVersion(version_id, "1", weights, tables, ready=True, since_s=now_s)
        except BaseException:
            arena.close()
            raise
        return cls(
            config, arena, rows, slots, forecast, [first], first, config.policy, point, allowance=allowed
        )

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def load(self) -> Load:
        """What is offered, and what the target leaves for it beside the network face."""
        allowed = replace(self.allowance, margin=0.0)
        return Load(self.mix, self.forecast, allowed.target(self.config.target), allowed.most_qps)

    def forget_load(self) -> None:
        """Forget the queries that were offered."""
        self.offered.clear()
        self.mix = OfferedMix()

    def specs(self, device: str, worker: int, gpus: int) -> list[VersionSpec]:
        """The versions as a worker of a device needs them, which has `gpus` accelerators; none if unused."""
        layout, engine = self.arena.layout, self.config.engine
        if device == GPU:
            if self.config.gpu is None:
                return []
            engine = str(EngineSpec.parse(self.config.gpu).replicas(gpus)[worker])
        return [
            VersionSpec(
                version.id,
                layout,
                version.weights.model or layout.model,
                version.weights.seed,
                engine,
                {**version.fds, **self.arena.fds},
            )
            for version in self.versions
        ]

    def version(self, named: str) -> ModelVersion:
        """The version of that name, if it can score; "" takes the current one.

        Raises:
            RetiredError: it is not held. RefusedError: none is.
        """
        found = (v for v in self.versions if v.ready and v.version == named)
        if (version := next(found, None) if named else self.current) is None:
            raise RetiredError(self.name, named, self.current.version)
        if not version.ready:
            raise RefusedError(Reason.NOT_READY, f"{self.name}: {UNLOADED}", self.config.target.latency_s)
        return version

    @cached_property
    def weight(self) -> ItemWork:
        """What look-ups count for in the work of a query."""
        return ItemWork(self.arena.schema.item_lookups, self.config.profile.lookup_share)

    def rows_of(self, items: int, ids: Mapping[str, int]) -> int:
        """Rows that a query takes, with so many ids in its jagged per-item inputs."""
        assert isinstance(self.arena.layout.inputs, QueryArena)
        return self.arena.layout.inputs.rows_of(self.arena.schema, items, ids)

    def has_room(self, rows: int) -> bool:
        """Whether there is a place for a query that takes this many rows."""
        return bool(self.slots) and self.rows.fits(rows)

    def take(self, rows: int) -> tuple[int, int]:
        """A row and a slot for a query, where there is room."""
        row = self.rows.take(rows)
        assert row is not None, "no room"
        return row, self.slots.pop()

    def give(self, place: Reservation) -> None:
        """Take back the place of a query that is no longer read or written."""
        self.rows.give(place.row, place.rows)
        self.slots.append(place.slot)

    def describe(self, ready: bool) -> ServedModel:
        """The model as clients see it; kept, as every request asks and little changes."""
        held = tuple(HeldVersion(v.version, READY if v.ready else LOADING) for v in self.versions)
        held = held or (HeldVersion(self.current.version, UNAVAILABLE, UNLOADED),)
        state = ready and self.current.ready, self.current.version, self.policy, held
        if self._described is None or self._described[0] != state:
            self._described = state, self._describe(state[0], held)
        return self._described[1]

    def _describe(self, ready: bool, held: tuple[HeldVersion, ...]) -> ServedModel:
        c, schema = self.config, self.arena.schema
        return ServedModel(
            name=self.name,
            version=self.current.version,
            held=held,
            since_s=self.current.since_s,
            schema=schema,
            target=c.target,
            max_items=c.max_items,
            engine=c.engine,
            ready=ready,
            split=c.split,
            finite=c.finite,
            config={
                "engine": c.engine,
                "model": c.known_as,
                "precision": c.precision,
                "rows_scale": c.rows_scale,
                "max_items": c.max_items,
                "max_queries": c.max_queries,
                "target_ms": 1e3 * c.target.latency_s,
                "quantile": c.target.quantile,
                **({"gpu": c.gpu} if c.gpu else {}),
                **self.policy.describe(),
            },
        )

    def close(self) -> None:
        """Give the memory back."""
        for version in self.versions:
            version.close()
        self.arena.close()


def point_of(
    policy: Policy, capacity_qps: float | None, now_s: float, why: str, pinned: bool, allowance: Allowance
) -> OperatingPoint:
    """The operating point of a policy."""
    return OperatingPoint(
        policy=policy.name,
        batch_size=policy.batch_size,
        offload_above=policy.offload_above,
        capacity_qps=capacity_qps,
        since_s=now_s,
        why=why,
        pinned=pinned,
        allowance=allowance,
    )


def bad_id(schema: Schema, inputs: Mapping[str, InputRows]) -> str | None:
    """The first id of a query that is outside its table, in words; None if all are inside."""
    for i in schema.inputs:
        if not isinstance(i, SparseInput):
            continue
        whole, rows = inputs[i.name], schema.table(i.table).rows
        ids = whole.rows(0, len(whole.begins) - 1).values if isinstance(whole, Ids) else whole
        wrong = (ids < 0) | (ids >= rows)
        if wrong.any():
            at = int(wrong.argmax())
            if isinstance(whole, Ids):
                item = int(np.searchsorted(whole.begins, whole.base + at, side="right")) - 1
                return (
                    f"input {i.name!r}: item {item}, look-up {at - int(whole.begins[item] - whole.base)}: "
                    f"expected an id in 0 … {rows - 1}, got {ids[at]}"
                )
            item, look_up = divmod(at, ids.shape[1])
            tensor, feed = schema.source(i.name)
            place = f"column {feed.columns[look_up]}" if feed.columns else f"look-up {look_up}"
            where = f"input {tensor.name!r}: item {item}, {place}"
            return f"{where}: expected an id in 0 … {rows - 1}, got {ids[item, look_up]}"
    return None


def checked_items(served: HostedModel, items: int) -> int:
    """A number of items that a query may have.

    Raises:
        InputError: it may not.
    """
    if not 1 <= items <= served.config.max_items:
        raise InputError(f"items: expected 1 … {served.config.max_items}, got {items}")
    return items

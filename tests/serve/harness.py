"""A small service for tests, and the scores that it must give."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from deeprecsys.core.policy import DeepRecSched
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.core.target import Target
from deeprecsys.engine import Assembly, SliceView, build
from deeprecsys.node.runtime.tables import table_arrays
from deeprecsys.node.service.backend import BatchRecord, OperatingPoint, QueryRecord
from deeprecsys.node.service.hosted_model import ModelConfig
from deeprecsys.node.service.service import Service, ServiceConfig
from deeprecsys.zoo import model
from deeprecsys.zoo.schema import Per, Schema, SparseInput
from tests.node.plain import PLAIN

Run = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine to its end."""

FAST = LatencyProfile("any", (Point(1, 1, (1e-4,)), Point(1, 100, (1e-3,))))
SMALL = ModelConfig(
    "dlrm-rmc1", Target(latency_s=5.0), DeepRecSched(16), FAST, rows_scale=1e-3, engine=PLAIN, max_items=100
)


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a test's coroutine on a loop of its own, for at most two minutes."""
    return asyncio.run(asyncio.wait_for(coroutine, 120))


@asynccontextmanager
async def service(
    *models: ModelConfig, workers: int = 2, spares: int = 0, gpus: int = 0
) -> AsyncIterator[Service]:
    """A started service of some models, by default the small one."""
    import os

    cores = sorted(os.sched_getaffinity(0))
    config = ServiceConfig(
        models or (SMALL,), tuple([cores[i % len(cores)]] for i in range(workers)), spares=spares, gpus=gpus
    )
    found = await Service.start(config)
    try:
        yield found
    finally:
        found.close()


@contextmanager
def shared(*models: ModelConfig, workers: int) -> Iterator[tuple[Service, Run]]:
    """A started service for several tests, and what `run` is to them: on the service's own loop."""
    with asyncio.Runner() as runner:
        started = service(*models, workers=workers)
        s = runner.run(started.__aenter__())
        try:
            yield s, lambda coroutine: runner.run(asyncio.wait_for(coroutine, 120))
        finally:
            runner.run(started.__aexit__(None, None, None))


def features(schema: Schema, items: int, seed: int) -> dict[str, np.ndarray]:
    """Random features of one query."""
    rng = np.random.default_rng(seed)
    found = {}
    for i in schema.inputs:
        rows = items if i.per is Per.ITEM else 1
        if isinstance(i, SparseInput):
            most = schema.table(i.table).rows
            found[i.name] = rng.integers(0, most, (rows, i.lookups), dtype=np.int32)
        else:
            found[i.name] = rng.standard_normal((rows, i.width), dtype=np.float32)
    return found


class Reference:
    """Scores queries whole, by an engine in this very process: the plain one, or eager for all others."""

    def __init__(self, s: Service, name: str, version: int = -1, seed: int | None = None) -> None:
        served = s._served[name]
        config = served.config
        self._model = model(config.known_as).scaled(config.rows_scale)
        self._tables = table_arrays(self._model.schema, served.versions[version].tables)
        self._seed = config.seed if seed is None else seed
        self._engine = PLAIN if config.engine.startswith("tests.node.") else "eager"

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        schema = self._model.schema
        assembly = Assembly(self._model, self._tables, inputs, self._seed)
        items = max(len(x) for x in inputs.values())
        out = np.empty((items, schema.outputs), np.float32)
        build(self._engine, assembly).score([SliceView(dict.fromkeys(inputs, 0), 0, items, out)])
        return out


async def ask(
    s: Service, name: str, inputs: Mapping[str, np.ndarray], *, pause_s: float = 0.0, **options: Any
) -> np.ndarray:
    """What the network face does with one query."""
    items = max(len(x) for x in inputs.values())
    seat = s.reserve(name, items, arrival_s=time.monotonic(), **options)
    try:
        for key, rows in seat.inputs.items():
            rows[...] = inputs[key]
        if pause_s:
            await asyncio.sleep(pause_s)
        return (await s.score(seat)).copy()
    finally:
        s.release(seat)


async def ask_any(s: Service, items: int = 10, name: str = "dlrm-rmc1", **options: Any) -> np.ndarray:
    """Some query of so many items."""
    return await ask(s, name, features(s.models[name].schema, items, 0), **options)


class Heard:
    """A listener that keeps everything."""

    def __init__(self, s: Service) -> None:
        self.queries: list[QueryRecord] = []
        self.batches: list[BatchRecord] = []
        self.points: list[tuple[str, OperatingPoint]] = []
        self.stop = s.listen(self)

    def query_ended(self, record: QueryRecord) -> None:
        self.queries.append(record)

    def batch_ended(self, record: BatchRecord) -> None:
        self.batches.append(record)

    def point_changed(self, model: str, point: OperatingPoint) -> None:
        self.points.append((model, point))

    @property
    def outcomes(self) -> list[str]:
        return [q.outcome for q in self.queries]


def nothing_left(s: Service) -> None:
    """Raise AssertionError unless every place has been given back."""
    assert not s._queries.places
    for served in s._served.values():
        assert served.open == 0
        assert len(served.slots) == served.arena.layout.inputs.slots
        assert served.rows.free == len(served.arena.scores) // 16 * 16
        assert not any(s._dispatcher.has(v.id) for v in served.versions)
    s._dispatcher.check()
    assert s._dispatcher.open == 0


def changed(**changes: Any) -> ModelConfig:
    """The small model's configuration with changes."""
    return replace(SMALL, **changes)

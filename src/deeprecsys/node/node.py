"""A node: shared memory, workers and the trials that run on them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.device import Limits
from deeprecsys.core.dispatcher import Dispatcher
from deeprecsys.core.errors import InputError
from deeprecsys.core.policy import CPU, GPU, Policy
from deeprecsys.core.runlog import ABANDON_TARGETS, RunLog, warmup_s
from deeprecsys.core.target import Target
from deeprecsys.engine.isa import DEFAULT, environment, ignores_isa
from deeprecsys.engine.spec import FASTEST, EngineSpec
from deeprecsys.node.closed import lookup_share, measure_batches, score_queries
from deeprecsys.node.driver import Recording
from deeprecsys.node.runtime.cores import (
    awake,
    interleave_memory,
    numa_nodes,
    pss_bytes,
    realtime,
    realtime_permitted,
    usable_cores,
    worker_nice,
)
from deeprecsys.node.runtime.layout import FeaturePool, ModelLayout, ModelMemory, VersionSpec, check_stage
from deeprecsys.node.runtime.mailbox import MAX_SLICES
from deeprecsys.node.runtime.tables import check_copies
from deeprecsys.node.runtime.workers import Workers
from deeprecsys.node.trial import Hooks, LiveTrial
from deeprecsys.workload.lengths import HEAVY
from deeprecsys.workload.stream import Stream
from deeprecsys.workload.work import PoolWork
from deeprecsys.zoo.schema import Per, Schema

DEFAULT_LLC = 32 << 20
SHARE_ITEMS = 1024
"""Items of the batches by whose times the share of look-ups is measured."""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """A node, before it is built.

    Attributes:
        model: of the zoo; rows_scale: factor on its tables' rows.
        engine, precision, threads: what scores, and with how many threads per worker.
        workers: worker processes; None takes one per usable core and thread count, less one where the
            dispatcher may not run under SCHED_FIFO.
        seed: of tables, weights and features.
        max_query: the most items of one query.
        locality: of feature ids.
        lookups: how many ids the rows of jagged inputs have (`workload.lengths`).
        isa: instructions that the workers' libraries are held to, `default` for all that there are.
        gpu: the engine of the `gpu` workers; None where the node has none.
        gpus: how many there are: one process for each accelerator.
    """

    model: str
    rows_scale: float = 1.0
    engine: str = FASTEST
    precision: str = "fp32"
    threads: int = 1
    workers: int | None = None
    seed: int = 0
    max_query: int = 1000
    locality: str = "zipf:0.9"
    lookups: str = HEAVY
    limits: Limits | None = None
    isa: str = DEFAULT
    gpu: str | None = None
    gpus: int = 1

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise InputError(f"threads: expected at least 1, got {self.threads}")
        if self.workers is not None and self.workers < 1:
            raise InputError(f"workers: expected at least 1, got {self.workers}")
        if self.gpus < 1:
            raise InputError(f"gpus: expected at least 1, got {self.gpus}")
        assert len(self.accelerators) == (self.gpus if self.gpu else 0)

    @property
    def pool(self) -> FeaturePool:
        """The features that queries of trials read."""
        return FeaturePool(
            self.max_query, locality=self.locality, llc_bytes=last_level_cache(), lookups=self.lookups
        )

    def work(self, schema: Schema) -> PoolWork | None:
        """What queries count for that read the pool; None where all items are alike."""
        return self.pool.features(schema).work(schema, self.seed) if schema.item_lookups else None

    @property
    def accelerators(self) -> tuple[str, ...]:
        """The engine of each `gpu` worker."""
        return tuple(map(str, EngineSpec.parse(self.gpu).replicas(self.gpus))) if self.gpu else ()


class Node:
    """Worker processes over shared tables. A context manager: on leaving, nothing stays behind.

    Args:
        config: the node; a model's name stands for its node with all defaults.
        progress: called with what is done and the share of it, while tables are filled and workers start.

    Raises:
        InputError: the tables do not fit in memory.
        NodeError: a worker could not start.
    """

    def __init__(
        self, config: NodeConfig | str, progress: Callable[[str, float], None] | None = None
    ) -> None:
        self.config = config = NodeConfig(config) if isinstance(config, str) else config
        self.realtime = realtime_permitted()
        with awake() as self.kept_awake:
            pass
        count = config.workers or default_workers(config)
        self.pinning = pinning(count, config.threads)
        # An accelerator's process mostly waits for it: it may run on any core.
        cores = {CPU: self.pinning}
        if config.accelerators:
            cores[GPU] = [usable_cores() for _ in config.accelerators]
        self._features = config.pool
        check_copies(config.model, count)
        layout = ModelLayout(config.model, config.rows_scale, config.precision, self._features)
        interleave_memory(numa_nodes())
        self.memory = ModelMemory.of_trials(layout, config.seed, progress)
        try:
            self.pool = Workers(
                cores, self._version, config.threads, environment=environment(config.isa), strict=True
            )
            self.pool.start(progress)
        except BaseException:
            self.close()
            raise

    def _version(self, device: str, worker: int) -> list[VersionSpec]:
        """What the worker of a device scores: the one version of the node's model."""
        engine = self.config.engine if device == CPU else self.config.accelerators[worker]
        layout, fds = self.memory.layout, self.memory.fds
        return [VersionSpec(0, layout, layout.model, self.config.seed, engine, fds)]

    def __enter__(self) -> Node:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers and give the memory back."""
        if pool := getattr(self, "pool", None):
            pool.close()
        self.memory.close()

    @cached_property
    def work(self) -> PoolWork | None:
        """What queries count for; None where all items are alike."""
        return self.config.work(self.memory.schema)

    @cached_property
    def lookup_share(self) -> float:
        """The share of an average item's time that its look-ups take, measured once; 0 where all items are
        alike. What is set here instead is taken: 0 counts work in items."""
        if self.work is None:
            return 0.0
        with realtime(), awake():
            items = min(self.config.max_query, SHARE_ITEMS)
            return lookup_share(self.pool, self.work, items, self.config.seed)

    @property
    def arithmetic(self) -> str:
        """What rows and layers are computed in, in the engine's words."""
        return self.pool.arithmetic[CPU]

    @property
    def workers(self) -> int:
        """Workers of the `cpu`."""
        return self.pool.counts[CPU]

    def run(
        self,
        policy: Policy,
        stream: Stream,
        target: Target | None = None,
        hooks: Hooks | None = None,
        recording: Recording | None = None,
        abandon: bool = True,
    ) -> RunLog:
        """One live trial. Of a model with jagged inputs, its sizes are work at the node's `lookup_share`.

        Args:
            policy: how queries become batches.
            stream: the queries; none larger than the node's `max_query`.
            target: sets the warm-up, and after what wait the trial is given up.
            abandon: whether it is.
        """
        if len(stream.items) and (largest := int(stream.items.max())) > self.config.max_query:
            raise InputError(
                f"size: expected queries of at most {self.config.max_query} items, got {largest}"
            )
        if self.work is not None:
            stream = stream.at_share(self.lookup_share)
        check_stage(policy, self.memory.layout.built(), self.config.engine)
        limits = self.config.limits or Limits(
            queries=self._features.max_open - len(self.pool),
            bytes_per_item=self.memory.schema.feature_bytes(Per.ITEM),
            slices=MAX_SLICES,
        )
        dispatcher = Dispatcher(policy, self.pool.counts, limits)
        trial = LiveTrial(
            self.pool,
            dispatcher,
            stream,
            self._features.slots(self.memory.scores),
            abandon_after_s=ABANDON_TARGETS * target.latency_s if target and abandon else None,
            hooks=hooks,
            recording=recording,
        )
        span = float(stream.arrival_s[-1]) if len(stream.arrival_s) else 0.0
        with realtime(), awake():
            return trial.run(warmup_s(span, target))

    def offline_qps(self, policy: Policy, stream: Stream) -> float:
        """Queries per second when all of the stream's are there from the start."""
        count = min(len(stream), self._features.max_open - len(self.pool))
        at_once = replace(
            stream,
            arrival_s=np.full(count, 1e-9),
            size=stream.size[:count],
            features=stream.features[:count],
            counts=stream.items[:count],
        )
        log = self.run(policy, at_once)
        return count / log.duration_s

    def measure(
        self,
        batch: int,
        busy: int,
        repeats: int,
        rest_s: float = 0.0,
        *,
        device: str = CPU,
        staged: bool = False,
    ) -> NDArray[np.float64]:
        """Seconds from dispatch to completion of batches of `batch` items while `busy` workers are busy.

        With `rest_s`, on a worker that rests that long on average before each of its batches. 0 items are a
        user stage, and with `staged` one has run.
        """
        seed, largest = self.config.seed, self.config.max_query
        with realtime(), awake():
            work = self.work.at_share(self.lookup_share) if self.work else None
            return measure_batches(
                self.pool, batch, busy, repeats, seed, rest_s, device, largest, work, staged
            )

    @property
    def user_stage(self) -> bool:
        """Whether model and engine have a user stage."""
        able = EngineSpec.parse(self.config.engine).user_stage
        return able and self.memory.layout.built().user_stage > 0

    def score(self, stream: Stream) -> list[NDArray[np.float32]]:
        """The scores of a stream's queries, [size, outputs] each; when they arrive does not matter."""
        slots = self._features.slots(self.memory.scores)
        return score_queries(self.pool, slots, stream.features.tolist(), stream.items.tolist())

    def touched(self, stream: Stream) -> dict[str, float]:
        """Embedding row bytes that a stream's queries look up at least once, and the cache's size."""
        memory, pool = self.memory, self.memory.segments["inputs"].memory
        found = memory.features.touched(pool, memory.schema, stream.features, stream.items)
        llc_bytes = self._features.llc_bytes
        return {"bytes": found.bytes, "fraction_of_tables": found.fraction, "llc_bytes": llc_bytes}

    def footprint(self) -> dict[str, float]:
        """Bytes that the node takes in memory, and how its tables lie."""
        return {
            "pss_bytes": pss_bytes([os.getpid(), *self.pool.pids]),
            "table_bytes": self.memory.segments["tables"].size,
            "feature_bytes": self.memory.segments["inputs"].size,
            "huge_page_fraction": self.memory.segments["tables"].huge_fraction(),
        }

    def describe(self) -> dict[str, Any]:
        """The node for reports: engine, workers, cores, scheduling, memory."""
        engine = EngineSpec.parse(self.config.engine)
        return {
            "engine": self.config.engine,
            "precision": self.config.precision,
            "arithmetic": self.arithmetic,
            "isa": self.config.isa,
            "isa_not_heeded_by": list(ignores_isa(engine)) if self.config.isa != DEFAULT else [],
            "threads": self.config.threads,
            "workers": self.workers,
            "cores": self.pinning,
            "cores_kept_awake": self.kept_awake,
            "dispatcher": "SCHED_FIFO" if self.realtime else "normal priority",
            "worker_nice": worker_nice(self.pool.pids),
            "rows_scale": self.config.rows_scale,
            "locality": self.config.locality,
            **({"lookup_share": self.lookup_share} if self.work else {}),
            "gpu": EngineSpec.parse(self.config.gpu).name if self.config.gpu else None,
            "gpus": self.pool.counts.get(GPU, 0),
            **self.footprint(),
        }


def pinning(workers: int, threads: int) -> list[list[int]]:
    """The cores of each worker: one after the other, round the usable ones."""
    cores = usable_cores()
    return [[cores[(i * threads + t) % len(cores)] for t in range(threads)] for i in range(workers)]


def default_workers(config: NodeConfig) -> int:
    """One worker per usable core and thread count, less one where the dispatcher may not take precedence."""
    return max(1, len(usable_cores()) // config.threads - (0 if realtime_permitted() else 1))


def last_level_cache(cpu: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Bytes of the largest cache that a core sees; 32 MB where the system does not say."""
    sizes = [DEFAULT_LLC] if not cpu.exists() else []
    for size in cpu.glob("index*/size"):
        text = size.read_text().strip()
        sizes.append(int(text[:-1]) * {"K": 1 << 10, "M": 1 << 20}[text[-1]])
    return max(sizes, default=DEFAULT_LLC)

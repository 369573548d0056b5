"""Prometheus metrics, made from `Counters` when they are scraped."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from math import isfinite
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from deeprecsys.node.service.backend import READY, Backend, HeldVersion
from deeprecsys.serve.memory import BufferPool
from deeprecsys.serve.metrics.counters import Counters, ModelCounters
from deeprecsys.serve.metrics.dashboard import offloaded_share
from deeprecsys.serve.metrics.histogram import Histogram

_HISTOGRAMS = (
    ("queue_seconds", "From a query's arrival to its first slice's start", "queue_s"),
    ("compute_seconds", "From a query's first slice's start to its last slice's end", "run_s"),
    ("merge_seconds", "From a query's last slice's end to its encoded answer", "merge_s"),
    ("latency_seconds", "From a query's arrival to its last slice's end", "latency_s"),
    ("batch_items", "Items of a batch", "batch_items"),
    ("query_items", "Items of a query", "query_items"),
    ("query_slices", "Slices that a query was cut into", "slices"),
)


def exposition(backend: Backend, counters: Counters, pool: BufferPool | None = None) -> tuple[str, bytes]:
    """Content type and text of all metrics, as Prometheus scrapes them.

    Args:
        pool: the memory of requests that are being read.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(backend, counters, pool or BufferPool()))
    return CONTENT_TYPE_PLAIN_0_0_4, generate_latest(registry)


class _Collected(Collector):
    def __init__(self, backend: Backend, counters: Counters, pool: BufferPool) -> None:
        self.backend, self.counters, self.pool = backend, counters, pool

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        models = [(name, self.counters.of(name)) for name in self.backend.models]
        for name, text, of in _HISTOGRAMS:
            family = HistogramMetricFamily(f"deeprecsys_{name}", text, labels=["model"])
            for model, w in models:
                _add(family, model, getattr(w, of))
            yield family
        yield from self._counters(models)
        yield from self._gauges(models)

    def _counters(self, models: list[tuple[str, ModelCounters]]) -> Iterator[Metric]:
        ended = CounterMetricFamily(
            "deeprecsys_queries", "Queries that ended, by how and why", labels=["model", "outcome", "reason"]
        )
        items = CounterMetricFamily("deeprecsys_items", "Items that were scored", labels=["model"])
        changes = CounterMetricFamily(
            "deeprecsys_operating_point_changes", "How often the operating point changed", labels=["model"]
        )
        not_finite = CounterMetricFamily(
            "deeprecsys_not_finite", "Queries whose scores were not finite, an error", labels=["model"]
        )
        late = CounterMetricFamily(
            "deeprecsys_late_answers", "Queries that were answered later than the target", labels=["model"]
        )
        rows = CounterMetricFamily("deeprecsys_rows_written", "Rows of tables replaced", labels=["model"])
        loads = CounterMetricFamily(
            "deeprecsys_loads", "Loads of weights, by result", labels=["model", "result"]
        )
        by_device = ["model", "device"]
        batches = CounterMetricFamily("deeprecsys_batches", "Batches that workers ran", labels=by_device)
        scored = CounterMetricFamily("deeprecsys_device_items", "Items of batches", labels=by_device)
        for model, w in models:
            for device in self.backend.workers:
                batches.add_metric([model, device], w.device_batches[device])
                scored.add_metric([model, device], w.device_items[device])
            items.add_metric([model], w.items)
            not_finite.add_metric([model], w.not_finite)
            late.add_metric([model], self.backend.late(model).total)
            changes.add_metric([model], w.point_changes)
            for (outcome, reason), count in w.ended.items():
                ended.add_metric([model, outcome, reason], count)
            rows.add_metric([model], w.rows_written)
            for result in ("loaded", "refused"):
                loads.add_metric([model, result], w.loads[result])
        yield rows
        yield loads
        yield ended
        yield not_finite
        yield late
        yield items
        yield batches
        yield scored
        yield changes

    def _gauges(self, models: list[tuple[str, ModelCounters]]) -> Iterator[Metric]:
        backend, now = self.backend, time.monotonic()
        workers = GaugeMetricFamily("deeprecsys_workers", "Workers alive", labels=["device"])
        for device, count in backend.workers.items():
            workers.add_metric([device], count)
        yield workers
        hung = "Workers that were replaced since they did not reply to a batch"
        yield CounterMetricFamily("deeprecsys_hung_workers", hung, value=backend.hung)
        held = "Memory of requests that are being read, over HTTP and gRPC, in bytes"
        yield GaugeMetricFamily("deeprecsys_request_memory_bytes", held, value=self.pool.taken)
        most = "The most that requests which are being read may take, in bytes"
        yield GaugeMetricFamily("deeprecsys_request_memory_limit_bytes", most, value=self.pool.most)
        yield GaugeMetricFamily(
            "deeprecsys_ready", "Whether queries are taken, and in time", value=backend.ready
        )
        free = "Share of the capacity at the targets that is free for the present mix; below 0 above capacity"
        yield GaugeMetricFamily("deeprecsys_headroom_ratio", free, value=backend.load.headroom)
        found: dict[str, GaugeMetricFamily] = {}

        def gauge(name: str, text: str, model: str, value: float | None) -> None:
            family = found.setdefault(name, GaugeMetricFamily(f"deeprecsys_{name}", text, labels=["model"]))
            if value is not None:
                family.add_metric([model], value)

        for model, w in models:
            served, point = backend.models[model], backend.point(model)
            queries, items = backend.waiting(model)
            target = served.target.latency_s
            gauge("open_queries", "Queries that are open", model, queries)
            gauge("waiting_items", "Items that no worker has begun", model, items)
            gauge("target_seconds", "The target's latency", model, target)
            gauge("target_quantile", "The target's quantile", model, served.target.quantile)
            share = offloaded_share(w, now)
            gauge("offloaded_ratio", "Share of recent items that accelerators scored", model, share)
            gauge("batch_size", "The operating point's batch size in items", model, point.batch_size)
            gauge(
                "offload_above",
                "The operating point's offloading threshold in items",
                model,
                point.offload_above,
            )
            if isfinite(served.since_s):
                gauge("version_age_seconds", "Since when its weights serve", model, now - served.since_s)
            last = w.last_load
            gauge("last_load_seconds", "How long the last load of weights took", model, last and last.seconds)
            ok = last and float(not last.refused)
            gauge("last_load_ok", "Whether the last load of weights was not refused", model, ok)
            left = "Queries that may still be late before those that would be are refused"
            gauge("late_budget", left, model, backend.late(model).left)
            gauge("capacity_qps", "Queries/s that the operating point can carry", model, point.capacity_qps)
            allowed, by_face = point.allowance, point.limit and point.limit == "network face"
            longer = "Share by which batches may take longer while that load meets the target"
            gauge("margin_ratio", longer, model, allowed.margin)
            face = "CPU time of the server's process per query, counted in that load"
            gauge("face_seconds", face, model, allowed.face_s or None)
            gauge("limited_by_face", "Whether the network face, not the workers, limits it", model, by_face)
        yield from found.values()
        version = GaugeMetricFamily(
            "deeprecsys_version",
            "Versions of weights that are held, by state",
            labels=["model", "version", "state"],
        )
        for model, _ in models:
            served = backend.models[model]
            for v in served.held or (HeldVersion(served.version, READY),):
                version.add_metric([model, v.version, v.state], float(v.version == served.version))
        yield version


def _add(family: Any, model: str, histogram: Histogram) -> None:
    names = [f"{bound:.10g}" for bound in histogram.bounds] + ["+Inf"]
    buckets = list(zip(names, histogram.cumulative(), strict=True))
    family.add_metric([model], buckets, sum_value=histogram.total)

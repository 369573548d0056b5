"""Triton's statistics extension, made from `Counters`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from deeprecsys.node.service.backend import ServedModel
from deeprecsys.serve.metrics.counters import Counters, Duration, ModelCounters


def statistics_document(counters: Counters, models: Iterable[ServedModel]) -> dict[str, Any]:
    """Counts and nanoseconds since the server started.

    `inference_count` counts items and `execution_count` batches, as in Triton. `queue` lasts until a query's
    first slice is taken; `compute_infer` is the workers' time, in which a shared batch counts once for
    each query; input and output are decoding and encoding by the server.
    """
    return {"model_stats": [_model(m, counters.of(m.name)) for m in models]}


def _model(model: ServedModel, w: ModelCounters) -> dict[str, Any]:
    none = {"count": 0, "ns": 0}
    return {
        "name": model.name,
        "version": model.version,
        "last_inference": int(1e3 * w.last_unix_s),
        "inference_count": w.items,
        "execution_count": w.batch_items.count,
        "inference_stats": {
            "success": _duration(w.served),
            "fail": _duration(w.failed),
            "queue": {"count": w.queue_s.count, "ns": int(1e9 * w.queue_s.total)},
            "compute_input": _duration(w.fill),
            "compute_infer": _duration(w.compute),
            "compute_output": _duration(w.encode),
            "cache_hit": none,
            "cache_miss": none,
        },
        "batch_stats": [
            {
                "batch_size": items,
                "compute_input": {"count": d.count, "ns": 0},
                "compute_infer": _duration(d),
                "compute_output": {"count": d.count, "ns": 0},
            }
            for items, d in sorted(w.batches.items())
        ],
    }


def _duration(d: Duration) -> dict[str, int]:
    return {"count": d.count, "ns": int(1e9 * d.seconds)}

"""The built-in page, and the state of a server as that reads it, once a second."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from math import isfinite
from typing import Any

from deeprecsys.node.service.backend import Backend, OperatingPoint, ServedModel
from deeprecsys.serve.metrics.counters import WINDOW_S, Counters, ModelCounters, Second
from deeprecsys.serve.metrics.histogram import SIZES, quantile
from deeprecsys.version import VERSION

RECENT_S = 10
"""Length of the period of the rates and percentiles at the page's head."""


CSP = (
    b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may do in a browser: ask this server for its state, and nothing else."""


def page_html() -> bytes:
    """The page, which needs nothing from elsewhere."""
    css = files("deeprecsys.report").joinpath("page.css").read_text()
    html = files("deeprecsys.serve.metrics").joinpath("page.html").read_text()
    return html.replace("/* page.css */", css).encode()


def live_document(backend: Backend, counters: Counters, now_s: float | None = None) -> dict[str, Any]:
    """All that the page shows, as JSON values; times in milliseconds, null where there is none.

    Args:
        now_s: on the monotonic clock; None reads it.
    """
    now = time.monotonic() if now_s is None else now_s
    return {
        "version": VERSION,
        "ready": backend.ready,
        "headroom": backend.load.headroom,
        "workers": dict(backend.workers),
        "recent_s": RECENT_S,
        "models": [_model(backend, m, counters.of(m.name), now) for m in backend.models.values()],
    }


def offloaded_share(w: ModelCounters, now_s: float) -> float | None:
    """Share of the items of the last `RECENT_S` seconds that accelerators scored; None without items."""
    recent = w.last(RECENT_S, now_s)
    scored = sum(s.scored for s in recent)
    return sum(s.offloaded for s in recent) / scored if scored else None


def _model(backend: Backend, m: ServedModel, w: ModelCounters, now: float) -> dict[str, Any]:
    recent, minute = w.last(RECENT_S, now), w.last(WINDOW_S, now)
    waiting, items = backend.waiting(m.name)
    return {
        "name": m.name,
        "version": m.version,
        "versions": _versions(m, w, now),
        "engine": m.engine,
        "ready": m.ready,
        "target": {"quantile": m.target.quantile, "latency_ms": 1e3 * m.target.latency_s},
        "open": waiting,
        "late": backend.late(m.name)._asdict(),
        "waiting_items": items,
        "recent": _recent(recent, m.target.quantile),
        "gpu": m.config.get("gpu"),
        "offloaded_share": offloaded_share(w, now),
        "batches": dict(w.device_batches),
        "seconds": [_second(s, int(now), m.target.quantile) for s in minute],
        "batch_items": _sizes(minute),
        "not_served": {str(why): n for why, n in sum((s.not_served for s in minute), Counter()).items()},
        "totals": {f"{outcome}{':' if why else ''}{why}": n for (outcome, why), n in w.ended.items()},
        "point": _point(backend.point(m.name), now),
        "points": [_point(p, now) for p in reversed(w.points)],
        "samples": [
            {
                "id": s.id,
                "items": s.items,
                "slices": s.slices,
                "queue_ms": 1e3 * s.queue_s,
                "run_ms": 1e3 * s.run_s,
                "merge_ms": 1e3 * s.merge_s,
            }
            for s in reversed(w.samples)
        ],
    }


def _versions(m: ServedModel, w: ModelCounters, now: float) -> dict[str, Any]:
    last = w.last_load
    return {
        "age_s": now - m.since_s if isfinite(m.since_s) else None,
        "held": [v._asdict() for v in m.held],
        "rows_written": w.rows_written,
        "rows_per_s": sum(s.rows for s in w.last(RECENT_S, now)) / RECENT_S,
        "last_load": last
        and {
            "version": last.version,
            "refused": last.refused,
            "seconds": last.seconds,
            "ago_s": now - last.ended_s,
        },
    }


def _recent(seconds: Sequence[Second], target_quantile: float) -> dict[str, float | None]:
    latencies = [s.latency_s for s in seconds]
    offered = sum(s.offered for s in seconds)
    lost = sum(sum(s.not_served.values()) for s in seconds)
    return {
        "offered_qps": offered / RECENT_S,
        "served_qps": (offered - lost) / RECENT_S,
        "items_per_s": sum(s.items for s in seconds) / RECENT_S,
        "batches_per_s": sum(s.batches for s in seconds) / RECENT_S,
        "p50_ms": _ms(quantile(latencies, 0.5)),
        "at_target_ms": _ms(quantile(latencies, target_quantile)),
        "p99_ms": _ms(quantile(latencies, 0.99)),
    }


def _second(s: Second, now: int, target_quantile: float) -> dict[str, float | None]:
    lost = sum(s.not_served.values())
    return {
        "ago_s": now - s.at,
        "served": s.offered - lost,
        "not_served": lost,
        "p50_ms": _ms(quantile([s.latency_s], 0.5)),
        "at_target_ms": _ms(quantile([s.latency_s], target_quantile)),
    }


def _sizes(seconds: Sequence[Second]) -> list[dict[str, int | str]]:
    counts = [sum(c) for c in zip(*(s.batch_items.counts for s in seconds), strict=True)]
    if not any(counts):
        return []
    least = next(i for i, n in enumerate(counts) if n)
    most = max(i for i, n in enumerate(counts) if n)
    names = [
        f"{int(low) + 1}–{int(high)}" if high > low + 1 else f"{int(high)}"
        for low, high in zip((0.0, *SIZES[:-1]), SIZES, strict=True)
    ] + [f"> {int(SIZES[-1])}"]
    return [{"items": names[i], "batches": counts[i]} for i in range(least, most + 1)]


def _point(p: OperatingPoint, now: float) -> dict[str, Any]:
    doc = asdict(p) | {"limit": p.limit}
    doc["ago_s"] = now - doc.pop("since_s")
    return doc


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds

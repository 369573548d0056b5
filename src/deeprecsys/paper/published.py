"""The paper's values that figures are held against (facts §2, §4 and §5; read off bars, within 5 %)."""

from __future__ import annotations

from collections.abc import Mapping

MODELS = ("dlrm-rmc1", "dlrm-rmc2", "dlrm-rmc3", "ncf", "wnd", "mt-wnd", "din", "dien")
LEVELS = ("low", "medium", "high")
SHORT = {m: m.removeprefix("dlrm-").upper() for m in MODELS}

RATIOS: Mapping[str, tuple[tuple[float, float], ...]] = {
    "dlrm-rmc1": ((2.5, 5.5), (6.1, 8.3), (6.1, 8.6)),
    "dlrm-rmc2": ((1.1, 2.9), (2.6, 6.7), (2.5, 5.9)),
    "dlrm-rmc3": ((3.6, 6.1), (3.7, 8.5), (6.5, 9.7)),
    "ncf": ((1.3, 4.9), (1.3, 5.2), (1.2, 5.0)),
    "wnd": ((2.3, 7.1), (1.1, 4.1), (1.7, 4.6)),
    "mt-wnd": ((2.0, 10.0), (1.0, 3.2), (1.7, 6.9)),
    "din": ((1.3, 1.3), (2.7, 2.7), (2.7, 3.1)),
    "dien": ((1.0, 2.2), (1.3, 6.2), (2.4, 5.1)),
}
"""Throughput over static, (CPU, CPU+GPU), at the low, medium and high target."""
MEAN_RATIO = {"low": (1.7, 4.0), "medium": (2.1, 5.1), "high": (2.7, 5.8)}
MEAN_RATIO_PER_WATT = {"low": (1.7, 2.0), "medium": (2.1, 2.6), "high": (2.7, 2.9)}
NODE_POWER_RATIO = 2.04
"""Power of a node with an accelerator over that of one without: in effect a constant (facts §4)."""
PRODUCTION = {"p95": 1.39, "p99": 1.31}
HANDFUL = 0.10

OPTIMAL_BATCH = {"embedding": 1024, "MLP": 128, "attention": 64}
"""One of the facts' less sure figures: shown, never a threshold."""
CLASS = dict(zip(MODELS, ("embedding",) * 2 + ("MLP",) * 4 + ("attention",) * 2, strict=True))
"""What bounds each (facts §2); DIN, of both kinds, is counted with attention as the paper does."""

SHARES: Mapping[str, Mapping[str, float]] = {
    "dlrm-rmc1": {"fc": 19.5, "embedding": 78.4},
    "dlrm-rmc2": {"fc": 6.5, "embedding": 92.4},
    "dlrm-rmc3": {"fc": 94.3, "embedding": 4.7},
    "ncf": {"fc": 90.2, "embedding": 3.0, "concat": 2.7},
    "wnd": {"fc": 96.3, "embedding": 1.7},
    "mt-wnd": {"fc": 95.3, "embedding": 2.5},
    "dien": {"recurrent": 74.1, "fc": 16.0, "softmax": 6.2},
}
"""Per cent of a CPU's run time at batch 64, by operator, of the artefact's models."""

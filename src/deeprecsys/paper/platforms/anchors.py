"""The two anchors: eager torch as measured, and the original artefact's Caffe2 by its own batch times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from deeprecsys.files import read_json
from deeprecsys.paper.platforms.anchored import Anchor, AnchorBatch, OperatorPart, hot
from deeprecsys.paper.platforms.limits import CoreLimits
from deeprecsys.paper.platforms.work import Work, work_of
from deeprecsys.zoo import MODELS as ZOO

EAGER_FILE = Path(__file__).with_name("eager-amd-26-2-avx512.json")
CHECKED_FILE = Path(__file__).with_name("limits-amd-25-1-avx2.json")
CAFFE2_BATCHES = (1, 16, 64, 256, 1024)
CAFFE2_MS: Mapping[str, tuple[float, ...]] = {
    "dlrm-rmc1-artefact": (0.039, 0.283, 1.03, 4.09, 12.6),
    "dlrm-rmc2-artefact": (0.201, 2.24, 7.02, 15.0, 43.7),
    "dlrm-rmc3-artefact": (0.206, 1.05, 2.86, 9.60, 32.1),
    "ncf-artefact": (0.018, 0.058, 0.121, 0.360, 1.41),
    "wnd-artefact": (0.128, 0.589, 1.47, 5.18, 19.2),
    "mt-wnd-artefact": (0.168, 0.746, 1.86, 6.65, 24.5),
    "din-artefact": (0.997, 2.08, 5.36, 11.1, 27.7),
    "dien-artefact": (0.466, 0.803, 1.77, 6.23, 23.2),
}
"""The artefact's own code at its best on one core of an AMD Zen 5 with AVX-512, by `CAFFE2_BATCHES`."""
CAFFE2_GFLOPS, CAFFE2_ROW_NS = 235.0, 3.5
"""That core's limits: best fp32 product, a random row of 128 B on huge pages read by a good loop."""
CAFFE2_OPERATOR_US = 1.5
"""A launch, from its batches of one item."""


@cache
def eager() -> Anchor:
    """Eager torch on one core of an AMD Zen 5 (`python -m benchmarks.paper.anchor`)."""
    return replace(Anchor.read(EAGER_FILE), name="eager torch, AMD Zen 5")


@cache
def epyc_7003_limits() -> CoreLimits:
    """Measured limits of one core of a machine that `known.EPYC_7003` describes; profiles of all eight models
    were measured on it."""
    return CoreLimits.from_json("EPYC 7003", read_json("limits", CHECKED_FILE, "limits of a core, as JSON"))


@cache
def caffe2() -> Anchor:
    """The artefact on the same kind of core: whole batches, divided by what is known of their parts.

    Launches cost what they cost in a batch of one item, rows what the core's limits say, products the rest.
    """
    limits = replace(
        eager().limits,
        product_gflops={
            n: CAFFE2_GFLOPS * rate / max(eager().limits.product_gflops.values())
            for n, rate in eager().limits.product_gflops.items()
        },
        operator_us=CAFFE2_OPERATOR_US,
    )
    models = {
        name: tuple(
            _batch(work_of(ZOO[name]), limits, items, 1e-3 * ms)
            for items, ms in zip(CAFFE2_BATCHES, times, strict=True)
        )
        for name, times in CAFFE2_MS.items()
    }
    return Anchor("the artefact's Caffe2, AMD Zen 5", limits, models)


def _batch(work: Work, limits: CoreLimits, items: int, seconds: float) -> AnchorBatch:
    launches = 1e-6 * limits.operator_us * work.operators
    left = max(0.0, seconds - launches)
    looked_up = sum(g.rows * g.row_bytes for g in work.gathers) / 128 * items
    rows = min(left, 1e-9 * looked_up * limits.row_s(hot(work, limits)))
    parts = OperatorPart("rows", 0, len(work.gathers), rows), OperatorPart("product", items, 1, left - rows)
    return AnchorBatch(items, seconds, parts)

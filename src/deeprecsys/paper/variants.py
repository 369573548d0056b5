"""Studies with other assumptions: every modelled part, varied one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from deeprecsys.paper.platforms import Anchor, caffe2, eager
from deeprecsys.paper.study import SPECS, Study


def card_beside_node(study: Study) -> Study:
    """The other reading of the published speed-ups: over all 40 cores, not over one.

    One process, single-threaded, is what the artefact shows. The paper's gains from the card need more
    than that: a device worth at most 4.6 cores adds at most 12 % to forty.
    """
    return study.with_card_over(40)


def _with(**constants: Any) -> Callable[[], Study]:
    """Every platform with other constants."""
    return lambda: Study(quick=True, specs={n: s.but(**constants) for n, s in SPECS.items()})


def _times(factor: float, *fields: str) -> Callable[[], Study]:
    """Every platform with some constants times a factor."""
    return lambda: Study(
        quick=True, specs={n: s.but(**{f: getattr(s, f) * factor for f in fields}) for n, s in SPECS.items()}
    )


def _parts(**factors: float) -> Callable[[], Study]:
    """Every platform with parts of batches of other length."""
    return lambda: Study(quick=True, anchor=lambda platform: eager().but(**factors))


def _artefact(anchor: Callable[[], Anchor], **constants: Any) -> Study:
    """The artefact's configurations."""
    specs = {n: s.but(**constants) for n, s in SPECS.items()}
    return Study(
        quick=True, specs=specs, anchor=lambda platform: anchor(), model_of=lambda m: f"{m}-artefact"
    )


VARIANTS: Mapping[str, Callable[[], Study]] = {
    "as it is": lambda: Study(quick=True),
    "roofline of data sheets, nothing measured": lambda: Study(quick=True, anchor=lambda platform: None),
    "the artefact's Caffe2 and its configurations": lambda: _artefact(caffe2),
    "the same, private copies of weights and tables": lambda: _artefact(caffe2, copies="private"),
    "the same, hand-over of a batch 1 ms": lambda: _artefact(caffe2, copies="private", batch_us=1000.0),
    "launches × ½": _parts(launches=0.5),
    "launches × 2": _parts(launches=2.0),
    "launches × 5": _parts(launches=5.0),
    "rows of tables × 3": _parts(rows=3.0),
    "products × 1.5": _parts(products=1.5),
    "hand-over of a batch 5 µs": _with(batch_us=5.0),
    "hand-over of a batch 1 ms": _with(batch_us=1000.0),
    "frequency × 0.75": _times(0.75, "ghz"),
    "L2 and L3 bandwidth × ½": _times(0.5, "l2_bytes_per_cycle", "l3_bytes_per_cycle"),
    "latency of memory × 1.5": _times(1.5, "memory_ns"),
    "memory efficiency 0.5": _with(memory_efficiency=0.5),
    "memory efficiency 1": _with(memory_efficiency=1.0),
    "popularity of rows s = 0.7": _with(zipf=0.7),
    "popularity of rows s = 1.1": _with(zipf=1.1),
    "private copies, inclusive caches everywhere": _with(inclusive=True, copies="private"),
    "private copies, exclusive caches everywhere": _with(inclusive=False, copies="private"),
    "AVX2 everywhere": _with(lanes=8),
    "AVX-512 everywhere": _with(lanes=16),
    "batch times spread by ± 30 %": lambda: Study(quick=True, spread=0.3),
    "transfer 60 % of the card's time": lambda: Study(quick=True, transfer_share=0.6),
    "transfer 80 % of the card's time": lambda: Study(quick=True, transfer_share=0.8),
    "speed-ups over 20 cores (one socket)": lambda: Study(quick=True, gpu_reference=20),
    "speed-ups over 40 cores (the node)": lambda: Study(quick=True, gpu_reference=40),
}
"""Name of what is varied → the study."""

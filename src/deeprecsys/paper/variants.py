"""Studies with other assumptions: every modelled part, varied one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

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


VARIANTS: Mapping[str, Callable[[], Study]] = {
    "as it is": lambda: Study(quick=True),
    "launch of an operator × ½": _times(0.5, "operator_us"),
    "launch of an operator × 3": _times(3.0, "operator_us"),
    "launch of an operator × 10": _times(10.0, "operator_us"),
    "hand-over of a batch 5 µs": _with(batch_us=5.0),
    "hand-over of a batch 1 ms": _with(batch_us=1000.0),
    "product efficiency 0.6": _with(efficiency=0.6),
    "product efficiency 0.95": _with(efficiency=0.95),
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
    "private copies of weights and tables": _with(copies="private"),
    "batch times spread by ± 30 %": lambda: Study(quick=True, spread=0.3),
    "the artefact's configurations": lambda: Study(quick=True, model_of=lambda m: f"{m}-artefact"),
    "transfer 60 % of the card's time": lambda: Study(quick=True, transfer_share=0.6),
    "transfer 80 % of the card's time": lambda: Study(quick=True, transfer_share=0.8),
    "speed-ups over 20 cores (one socket)": lambda: Study(quick=True, gpu_reference=20),
    "speed-ups over 40 cores (the node)": lambda: Study(quick=True, gpu_reference=40),
}
"""Name of what is varied → the study."""

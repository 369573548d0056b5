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


def varied(quick: bool, **changes: Any) -> Study:
    """A study in which every platform has other constants."""
    return Study(quick=quick, specs={n: s.but(**changes) for n, s in SPECS.items()})


def _scaled(field: str, factor: float) -> Callable[[], Study]:
    def make() -> Study:
        return Study(
            quick=True, specs={n: s.but(**{field: getattr(s, field) * factor}) for n, s in SPECS.items()}
        )

    return make


VARIANTS: Mapping[str, Callable[[], Study]] = {
    "as it is": lambda: Study(quick=True),
    "launch of an operator × ½": _scaled("operator_us", 0.5),
    "launch of an operator × 3": _scaled("operator_us", 3.0),
    "launch of an operator × 10": _scaled("operator_us", 10.0),
    "hand-over of a batch 5 µs": lambda: varied(True, batch_us=5.0),
    "hand-over of a batch 1 ms": lambda: varied(True, batch_us=1000.0),
    "product efficiency 0.6": lambda: varied(True, efficiency=0.6),
    "product efficiency 0.95": lambda: varied(True, efficiency=0.95),
    "frequency × 0.75": _scaled("ghz", 0.75),
    "L2 and L3 bandwidth × ½": lambda: Study(
        quick=True,
        specs={
            n: s.but(l2_bytes_per_cycle=s.l2_bytes_per_cycle / 2, l3_bytes_per_cycle=s.l3_bytes_per_cycle / 2)
            for n, s in SPECS.items()
        },
    ),
    "latency of memory × 1.5": _scaled("memory_ns", 1.5),
    "memory efficiency 0.5": lambda: varied(True, memory_efficiency=0.5),
    "memory efficiency 1": lambda: varied(True, memory_efficiency=1.0),
    "popularity of rows s = 0.7": lambda: varied(True, zipf=0.7),
    "popularity of rows s = 1.1": lambda: varied(True, zipf=1.1),
    "private copies, inclusive caches everywhere": lambda: varied(True, inclusive=True, copies="private"),
    "private copies, exclusive caches everywhere": lambda: varied(True, inclusive=False, copies="private"),
    "AVX2 everywhere": lambda: varied(True, lanes=8),
    "AVX-512 everywhere": lambda: varied(True, lanes=16),
    "private copies of weights and tables": lambda: varied(True, copies="private"),
    "batch times spread by ± 30 %": lambda: Study(quick=True, spread=0.3),
    "the artefact's configurations": lambda: Study(quick=True, model_of=lambda m: f"{m}-artefact"),
    "transfer 60 % of the card's time": lambda: Study(quick=True, transfer_share=0.6),
    "transfer 80 % of the card's time": lambda: Study(quick=True, transfer_share=0.8),
    "speed-ups over 20 cores (one socket)": lambda: Study(quick=True, gpu_reference=20),
    "speed-ups over 40 cores (the node)": lambda: Study(quick=True, gpu_reference=40),
}
"""Name of what is varied → the study."""

"""The GTX 1080 Ti: from its published speed-ups over a Skylake core, and, as a check on them, by roofline."""

from __future__ import annotations

import numpy as np

from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.paper.platforms.cpu import BATCHES
from deeprecsys.paper.platforms.work import Work
from deeprecsys.simulate.published import GTX_1080_TI, speed_up_at

TRANSFER_SHARE = GTX_1080_TI.transfer_share

_PEAK_FLOPS, _MEMORY_BYTES_PER_S = 11.3e12, 484e9  # published: the card's data sheet
_PCIE_BYTES_PER_S = 12e9  # published: what 16 lanes of the third generation sustain of 15.75
_LAUNCH_S = 10e-6  # assumed: a framework's launch of a kernel


def gtx_1080_ti(
    skylake: LatencyProfile,
    *,
    transfer: bool = True,
    transfer_share: float = TRANSFER_SHARE,
    reference_cores: int = 1,
) -> LatencyProfile:
    """The accelerator's batch times: those of one Skylake core over the published speed-up.

    Args:
        skylake: of the model on the modelled Skylake.
        transfer: with input transfer, as published; without, that share of the time is taken off.
        transfer_share: that share.
        reference_cores: how many cores, all scoring such batches, the speed-up is over. One, as far as the
            artefact shows; a card that is 1 to 5 times one core adds little to a node of 40.
    """
    left = (1.0 if transfer else 1.0 - transfer_share) / reference_cores
    points = tuple(
        Point(1, b, (skylake.seconds(b) / speed_up_at(GTX_1080_TI, skylake.model, b) * left,))
        for b in BATCHES
    )
    return LatencyProfile(
        model=skylake.model,
        points=_rising(points),
        engine="modelled",
        machine={"name": "GTX 1080 Ti", "modelled": True},
        detail={
            "modelled": True,
            "method": "published speed-ups over the modelled Skylake",
            "transfer": transfer,
        },
    )


def _rising(points: tuple[Point, ...]) -> tuple[Point, ...]:
    """A larger batch is never quicker: where the published table and our CPU disagree by so much, the time
    of the smaller holds."""
    times = np.maximum.accumulate([p.seconds[0] for p in points])
    return tuple(Point(p.busy, p.batch, (float(t),)) for p, t in zip(points, times, strict=True))


def gtx_roofline(work: Work, items: int, *, transfer: bool = True) -> float:
    """Seconds of a batch by the card's data sheet alone: what its published speed-ups can be held against."""
    compute = work.flops(items) / _PEAK_FLOPS
    memory = (
        work.weight_bytes + work.gathered_bytes(items) + work.activation_bytes(items)
    ) / _MEMORY_BYTES_PER_S
    moved = items * work.input_bytes / _PCIE_BYTES_PER_S if transfer else 0.0
    return max(compute, memory) + moved + work.operators * _LAUNCH_S

"""The GTX 1080 Ti: from its published speed-ups over a Skylake core, and, as a check on them, by roofline."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from deeprecsys.core.errors import InputError
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.simulate.platforms.cpu import BATCHES
from deeprecsys.simulate.platforms.work import Work

SPEED_UP_BATCHES = (1, 4, 16, 64, 256, 1024)
SPEED_UPS: Mapping[str, tuple[float, ...]] = {
    "wnd": (0.472, 0.617, 0.825, 1.627, 3.286, 4.615),
    "dlrm-rmc1": (0.371, 0.514, 0.829, 1.025, 1.127, 1.109),
    "dlrm-rmc2": (0.436, 0.722, 1.020, 1.188, 1.180, 1.173),
    "dlrm-rmc3": (0.704, 1.368, 1.831, 2.445, 3.048, 3.134),
    "ncf": (0.249, 0.332, 0.374, 0.951, 1.711, 2.916),
    "mt-wnd": (0.431, 0.601, 0.753, 1.378, 2.670, 3.968),
    "din": (0.254, 0.275, 0.416, 0.542, 0.970, 1.358),
    "dien": (0.371, 0.432, 0.516, 0.799, 1.453, 1.989),
}
"""Input transfer included, by batch size (facts §5, from the artefact's own plots)."""
TRANSFER_SHARE = 0.7
"""Of the accelerator's time that goes into moving the input: 60-80 % (facts §5, a less sure figure)."""

_PEAK_FLOPS, _MEMORY_BYTES_PER_S = 11.3e12, 484e9  # published: the card's data sheet
_PCIE_BYTES_PER_S = 12e9  # published: what 16 lanes of the third generation sustain of 15.75
_LAUNCH_S = 10e-6  # assumed: a framework's launch of a kernel


def speed_up(model: str, batch: int) -> float:
    """Published speed-up at a batch size: linear in the logarithms, constant beyond the ends.

    Raises:
        InputError: a model that was not published.
    """
    name = model.removesuffix("-artefact")
    if name not in SPEED_UPS:
        raise InputError(f"model: expected one with a published speed-up, got {model!r}")
    x = np.log(SPEED_UP_BATCHES)
    return float(np.exp(np.interp(np.log(batch), x, np.log(SPEED_UPS[name]))))


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
    points = tuple(Point(1, b, (skylake.seconds(b) / speed_up(skylake.model, b) * left,)) for b in BATCHES)
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

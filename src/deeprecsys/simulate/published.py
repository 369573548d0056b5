"""Published devices: profiles from a CPU's batch times and a published speed-up over a CPU.

Nothing here was measured on the device. The profile says so in its machine record, and so must whatever is
derived from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import exp, log

import numpy as np

from deeprecsys.core.errors import InputError, unknown
from deeprecsys.core.profile import LatencyProfile, Point


@dataclass(frozen=True)
class PublishedDevice:
    """A device as a publication describes it.

    Attributes:
        name: as options name it.
        title: as reports name it.
        batches: the batch sizes of the published speed-ups.
        speed_up: by model, over one CPU process at each of these sizes, input transfer included.
        transfer_share: the share of its time that the input transfer takes.
        power_w, memory_bytes: of the board.
        source: where the numbers are from.
    """

    name: str
    title: str
    batches: tuple[int, ...]
    speed_up: Mapping[str, tuple[float, ...]]
    transfer_share: float
    power_w: float
    memory_bytes: int
    source: str


GTX_1080_TI = PublishedDevice(
    name="gtx-1080-ti",
    title="GTX 1080 Ti",
    batches=(1, 4, 16, 64, 256, 1024),
    speed_up={
        "wnd": (0.472, 0.617, 0.825, 1.627, 3.286, 4.615),
        "dlrm-rmc1": (0.371, 0.514, 0.829, 1.025, 1.127, 1.109),
        "dlrm-rmc2": (0.436, 0.722, 1.020, 1.188, 1.180, 1.173),
        "dlrm-rmc3": (0.704, 1.368, 1.831, 2.445, 3.048, 3.134),
        "ncf": (0.249, 0.332, 0.374, 0.951, 1.711, 2.916),
        "mt-wnd": (0.431, 0.601, 0.753, 1.378, 2.670, 3.968),
        "din": (0.254, 0.275, 0.416, 0.542, 0.970, 1.358),
        "dien": (0.371, 0.432, 0.516, 0.799, 1.453, 1.989),
    },
    # The middle of the 60 to 80 % that are cited, and about half sure: never a threshold of anything.
    transfer_share=0.7,
    power_w=250.0,
    memory_bytes=11 << 30,
    source="speed-ups over one process of the authors' Skylake, from the artefact's plots (docs/facts.md §5)",
)
DEVICES = {d.name: d for d in (GTX_1080_TI,)}


def device(name: str) -> PublishedDevice:
    """The published device of a name; InputError, which names the nearest, if there is none."""
    if name not in DEVICES:
        raise unknown("published device", name, DEVICES)
    return DEVICES[name]


def speed_up_at(published: PublishedDevice, model: str, batch: int) -> float:
    """The speed-up at a batch size: a straight line in the logarithms between published sizes.

    Beyond the last published size, and before the first, that size's value: nothing is made up.

    Raises:
        InputError: nothing was published for the model.
    """
    known = published.speed_up.get(model.removesuffix("-artefact"))
    if known is None:
        raise InputError(
            f"{published.title}: expected a model with published speed-ups "
            f"({', '.join(sorted(published.speed_up))}), got {model}"
        )
    return exp(float(np.interp(log(batch), np.log(published.batches), np.log(known))))


def device_profile(cpu: LatencyProfile, published: PublishedDevice) -> LatencyProfile:
    """s(b) of a published device: the CPU's times with one worker busy, over the published speed-ups.

    The spread stays the CPU's, relative to its time: none was published. Points are the CPU profile's sizes
    and those that were published, so that the line between two of them stays near.

    Args:
        cpu: batch times of the model on a CPU; the level of least contention is taken, as the speed-ups are
            over one process.

    Raises:
        InputError: nothing was published for the profile's model.
    """
    level = cpu.busy_levels[0]
    curve = cpu.curve(level)
    sizes = sorted({p.batch for p in curve} | set(published.batches))
    points = []
    for batch in sizes:
        near = min(curve, key=lambda p: abs(log(p.batch / batch)))
        scale = cpu.seconds(batch, level) / near.mean_s / speed_up_at(published, cpu.model, batch)
        points.append(Point(1, batch, tuple(scale * s for s in near.seconds)))
    return replace(
        cpu,
        points=tuple(points),
        engine=f"emulated:{published.name}",
        threads=1,
        machine={
            "gpu": published.title,
            "emulated": True,
            "source": published.source,
            "input_transfer": True,
            "power_w": published.power_w,
            "over": dict(cpu.machine),
        },
        detail={"over_engine": cpu.engine, "over_threads": cpu.threads},
    )

"""A current server by scaling a measured profile: the same cores, more of them, on shared memory.

The contention model, in full: a batch takes what it took where it was measured with all workers busy; beyond
that, as long as the memory's bandwidth, divided by the busy cores, takes to bring the bytes that
miss the caches. Frequency, caches per core and latency are taken to be those of the measured machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.paper.platforms.cpu import LINE, hot_share, levels
from deeprecsys.paper.platforms.work import Work
from deeprecsys.zoo.schema import Per


@dataclass(frozen=True, slots=True)
class Server:
    """A server of the measured machine's generation.

    Attributes:
        l3_bytes: that a core's rows can stay in.
        memory_gb_per_s: of all sockets; `memory_efficiency` is the share that random rows reach.
    """

    name: str
    cores: int
    l3_bytes: int
    memory_gb_per_s: float
    source: str
    memory_efficiency: float = 0.8


EPYC_64 = Server(
    name="EPYC, 64 cores", cores=64, l3_bytes=32 << 20, memory_gb_per_s=204.8,
    source="published: EPYC 7763, 64 cores, 32 MB of L3 per 8 cores, 8 channels of DDR4-3200",
)  # fmt: skip


def scaled(measured: LatencyProfile, work: Work, server: Server = EPYC_64) -> LatencyProfile:
    """The profile of a server of many such cores, each measured quantile stretched alike."""
    base = measured.curve(max(measured.busy_levels))
    bandwidth = 1e9 * server.memory_gb_per_s * server.memory_efficiency
    points = []
    for busy in levels(server.cores):
        for p in base:
            least_s = busy * missed_bytes(work, p.batch, server) / bandwidth
            stretch = max(1.0, least_s / p.mean_s)
            points.append(Point(busy, p.batch, tuple(s * stretch for s in p.seconds)))
    return replace(
        measured,
        points=tuple(points),
        ranks=(),
        machine={
            "name": server.name,
            "cores": server.cores,
            "modelled": True,
            "measured_on": dict(measured.machine),
        },
        detail={"modelled": True, "method": "measured profile, cores scaled, bandwidth shared"},
    )


def missed_bytes(work: Work, items: int, server: Server, zipf: float = 0.9) -> float:
    """Bytes of embedding rows that come from memory."""
    room = server.l3_bytes / max(len(work.gathers), 1)
    total = 0.0
    for g in work.gathers:
        rows = g.rows * (items if g.per is Per.ITEM else 1)
        miss = 1 - hot_share(room / g.row_bytes, g.table_rows, zipf)
        total += rows * miss * max(g.row_bytes, LINE)
    return total

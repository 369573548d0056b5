"""Batch times of a CPU by analysis: roofline, caches, memory bandwidth shared by busy cores.

A batch takes the sum of four parts, none of which overlaps another:

1. *products*: FLOPs at the peak of one core's vector units times an efficiency, plus the weights read once
   per batch from wherever they are. The second term does not shrink with wider vectors: so the wider they
   are, the larger the batch at which a core gives half of its peak;
2. *activations* through L2, or L3 where they do not fit;
3. *gathers*: a miss costs the latency of memory over the misses that a core keeps in flight; hot rows hit the
   last-level cache. Busy cores share the memory's bandwidth: beyond it, everybody's misses stretch;
4. *launches*: so much per operator, and per batch.

Weights fall out of L2 in proportion to what passes through it between two uses, and out of the
last-level cache likewise; an inclusive one takes them out of L2 with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil

from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.paper.platforms.work import Work
from deeprecsys.zoo.schema import Per

LINE = 64
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True)
class CpuSpec:
    """A machine's constants. `sources` names the source of each.

    Attributes:
        cores, sockets: of the whole machine; every core is a worker.
        ghz: of all cores busy.
        lanes: fp32 lanes of a vector; `fma_ports` of such units per core.
        efficiency: share of the peak that a large matrix product reaches.
        l2_bytes, l3_bytes: per core, per socket.
        inclusive: whether the L3 holds all that the L2 holds.
        l2_bytes_per_cycle, l3_bytes_per_cycle: sustained, per core.
        l3_ns, memory_ns: latencies.
        fill_buffers, stream_buffers: lines in flight, per core: at random; in sequence, with the prefetcher.
        memory_gb_per_s: per socket; `memory_efficiency` is the share that random rows reach.
        zipf: exponent of the popularity of rows.
        operator_us, batch_us: launch of an operator; hand-over of a batch to a worker and back.
        instructions: per cycle, of code that branches and waits, over Skylake's.
        copies: "shared" or "private": whether workers share tables and weights.
        watts: thermal design power, per socket.
        sources: field → source.
    """

    name: str
    cores: int
    sockets: int
    ghz: float
    lanes: int
    l2_bytes: int
    l3_bytes: int
    inclusive: bool
    l2_bytes_per_cycle: float
    l3_bytes_per_cycle: float
    l3_ns: float
    memory_ns: float
    fill_buffers: int
    memory_gb_per_s: float
    watts: float
    sources: Mapping[str, str]
    fma_ports: int = 2
    efficiency: float = 0.85
    stream_buffers: int = 16
    memory_efficiency: float = 0.8
    zipf: float = 0.9
    operator_us: float = 3.0
    instructions: float = 1.0
    batch_us: float = 27.0
    copies: str = "shared"

    def __hash__(self) -> int:
        return hash((self.name, self.cores, self.ghz, self.lanes))

    @property
    def peak_flops(self) -> float:
        """Peak floating-point operations per second of one core."""
        return 2e9 * self.ghz * self.lanes * self.fma_ports

    def but(self, **changes: float | int | str) -> CpuSpec:
        """This machine with other constants."""
        return replace(self, **changes)  # type: ignore[arg-type] # by name


@dataclass(frozen=True, slots=True)
class Parts:
    """Seconds of a batch, by part; `stretch` is how much longer misses take than on an idle machine."""

    products: float
    activations: float
    gathers: float
    launches: float
    stretch: float

    @property
    def total(self) -> float:
        return self.products + self.activations + self.gathers + self.launches


BatchTime = Callable[[CpuSpec, Work, int, int], Parts]


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a batch moves through the caches while other cores are busy too, as on an idle machine.

    Attributes:
        cached_s: weights, from L2 and L3; `weights_s`: those that come from memory.
        hit_s, miss_s: rows, from the L3 and from memory.
        missed: bytes of rows and weights that come from memory.
    """

    cached_s: float
    weights_s: float
    hit_s: float
    miss_s: float
    missed: float


def traffic(spec: CpuSpec, work: Work, items: int, busy: int = 1) -> Traffic:
    """A batch's traffic while `busy` cores, itself included, each score such a batch."""
    gathered, weights = work.gathered_bytes(items), work.weight_bytes
    cycle_s = 1e-9 / spec.ghz
    in_l3 = _in_l3(spec, weights, gathered, ceil(busy / spec.sockets))
    in_l2 = min(1.0, spec.l2_bytes / (weights + gathered + work.activation_bytes(items)))
    in_l2 *= in_l3 if spec.inclusive else 1.0
    l2_s, l3_s = cycle_s / spec.l2_bytes_per_cycle, cycle_s / spec.l3_bytes_per_cycle
    memory_s = 1e-9 * spec.memory_ns / (spec.stream_buffers * LINE)
    streamed = sum(x.weight_bytes * x.steps for x in work.layers)  # again in every step of a recurrent layer
    from_memory = (1 - in_l2) * (1 - in_l3) * streamed
    hit_s, miss_s, missed = _gathers(spec, work, items, weights)
    cached_s = streamed * (in_l2 * l2_s + (1 - in_l2) * in_l3 * l3_s)
    return Traffic(cached_s, from_memory * memory_s, hit_s, miss_s, missed + from_memory)


def stretch(spec: CpuSpec, busy: int, missed: float, fixed_s: float, waits_s: float) -> float:
    """How much longer misses take than on an idle machine: the demand of all busy cores, if they took no
    longer, against the bandwidth of the sockets.

    Args:
        missed: bytes from memory, of a batch.
        fixed_s: its time beside misses; waits_s: in misses, on an idle machine.
    """
    bandwidth = 1e9 * spec.memory_gb_per_s * spec.memory_efficiency * spec.sockets
    return max(1.0, (busy * missed / bandwidth - fixed_s) / waits_s) if waits_s else 1.0


def batch_time(spec: CpuSpec, work: Work, items: int, busy: int = 1) -> Parts:
    """Seconds of a batch on one core while `busy` cores, itself included, each score such a batch."""
    moved = traffic(spec, work, items, busy)
    cycle_s = 1e-9 / spec.ghz
    compute_s = work.flops(items) / (spec.peak_flops * spec.efficiency)
    widest = max((x.activation_bytes * (items if x.per is Per.ITEM else 1) for x in work.layers), default=0)
    fits = min(1.0, spec.l2_bytes / max(widest, 1))
    near_s, far_s = cycle_s / spec.l2_bytes_per_cycle, cycle_s / spec.l3_bytes_per_cycle
    activations_s = work.activation_bytes(items) * (fits * near_s + (1 - fits) * far_s)
    launch_s = 1e-6 * (work.operators * spec.operator_us + spec.batch_us)
    fixed_s = compute_s + moved.cached_s + activations_s + moved.hit_s + launch_s
    longer = stretch(spec, busy, moved.missed, fixed_s, moved.miss_s + moved.weights_s)
    return Parts(
        products=compute_s + moved.cached_s + longer * moved.weights_s,
        activations=activations_s,
        gathers=moved.hit_s + longer * moved.miss_s,
        launches=launch_s,
        stretch=longer,
    )


def _in_l3(spec: CpuSpec, weights: int, gathered: int, here: int) -> float:
    """Share of the weights still in the L3 when they are read again; `here` cores of the socket are busy."""
    room = spec.l3_bytes + (0 if spec.inclusive else spec.l2_bytes * here)
    between = (weights + gathered) * here if spec.copies == "private" else (weights + gathered) / here
    return min(1.0, room / max(between, 1))


def _gathers(spec: CpuSpec, work: Work, items: int, weights: int) -> tuple[float, float, float]:
    """Seconds of hits, seconds of misses on an idle machine, bytes missed."""
    room = max(spec.l3_bytes - weights, spec.l3_bytes / 2)
    if spec.copies == "private":
        room /= spec.cores / spec.sockets
    per_table = room / max(len(work.gathers), 1)
    hit_s = miss_s = missed = 0.0
    for g in work.gathers:
        rows = g.rows * (items if g.per is Per.ITEM else 1)
        lines = ceil(g.row_bytes / LINE)
        hits = hot_share(per_table / g.row_bytes, g.table_rows, spec.zipf)
        hit_s += rows * hits * lines * 1e-9 * spec.l3_ns / spec.fill_buffers
        miss_s += rows * (1 - hits) * lines * 1e-9 * spec.memory_ns / spec.fill_buffers
        missed += rows * (1 - hits) * lines * LINE
    return hit_s, miss_s, missed


@lru_cache(maxsize=4096)
def hot_share(kept: float, rows: int, s: float) -> float:
    """Share of look-ups that go to the `kept` most popular of `rows` rows, popularity k^-s."""

    def mass(n: float) -> float:
        return 1.0 + ((n ** (1 - s) - 1) / (1 - s) if s != 1 else 0.0)

    return 1.0 if kept >= rows else mass(max(kept, 1.0)) / mass(rows)


def modelled(
    spec: CpuSpec,
    work: Work,
    *,
    cores: int | None = None,
    spread: float = 0.0,
    time: BatchTime = batch_time,
    batches: Sequence[int] = BATCHES,
    method: str = "roofline, caches, shared bandwidth",
) -> LatencyProfile:
    """The profile of a model on a machine. Its engine is "modelled", and `detail` says from what.

    Args:
        cores: workers; by default all.
        spread: relative half-width of the spread of times, evenly distributed; 0 is a constant.
        time: of a batch, by machine, work, items and busy cores.
        batches: sizes that it is asked for.
        method: what `time` goes by, in words.
    """
    k = cores or spec.cores
    points = []
    for busy in levels(k):
        for b in batches:
            t = time(spec, work, b, busy).total
            points.append(Point(busy, b, (t * (1 - spread), t, t * (1 + spread)) if spread else (t,)))
    return LatencyProfile(
        model=work.name,
        points=tuple(points),
        engine="modelled",
        machine={"name": spec.name, "cores": k, "modelled": True},
        detail={"modelled": True, "method": method, "spread": spread},
    )


def levels(cores: int) -> list[int]:
    """Numbers of busy workers that a profile has: by quarters of the machine, and the first ones."""
    found: Iterable[int] = {1, 2, 4, *(max(1, round(cores * q / 8)) for q in range(1, 9))}
    return sorted(k for k in found if k <= cores)

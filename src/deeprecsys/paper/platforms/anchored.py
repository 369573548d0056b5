"""Platforms anchored in measurement: a measured batch, part by part, each scaled by a ratio of the hardware.

The parts of a batch: matrix products, by their rows; rows of embedding tables; all other operators; and
launches: what is left of the batch's time, which is the framework's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deeprecsys.core.errors import InputError, shown
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.files import read_json
from deeprecsys.paper.platforms.cpu import CpuSpec, Parts, hot_share, modelled, stretch, traffic
from deeprecsys.paper.platforms.limits import CoreLimits, limits_of
from deeprecsys.paper.platforms.work import Work

FORMAT = "deeprecsys-parts/1"
ZIPF = 0.9
"""Of the ids in the anchor's batches."""
KINDS = ("product", "rows", "other")


@dataclass(frozen=True, slots=True)
class OperatorPart:
    """All operators of one kind and shape in a batch.

    Attributes:
        kind: "product", "rows" or "other".
        rows: of a product: those of its left matrix; else 0.
        count: how many ran.
        seconds: in all of them, less what a launch of each costs.
    """

    kind: str
    rows: int
    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class AnchorBatch:
    """A measured batch.

    Attributes:
        seconds: of all of it, operators and the framework between them.
    """

    items: int
    seconds: float
    operators: tuple[OperatorPart, ...]


@dataclass(frozen=True)
class BatchParts:
    """Seconds of a batch by part, on one core, the others idle."""

    products: float
    rows: float
    other: float
    launches: float

    @property
    def total(self) -> float:
        return self.products + self.rows + self.other + self.launches


@dataclass(frozen=True)
class Anchor:
    """A machine on which batches were measured part by part.

    Attributes:
        name: of the machine and the software.
        limits: of one of its cores.
        models: name → batches by rising size.
        factors: of each part wherever it is taken to; what an uncertain ratio is varied by.
    """

    name: str
    limits: CoreLimits
    models: Mapping[str, tuple[AnchorBatch, ...]]
    factors: BatchParts = BatchParts(1.0, 1.0, 1.0, 1.0)

    def batches(self, model: str) -> tuple[AnchorBatch, ...]:
        if model not in self.models:
            raise InputError(
                f"anchor: expected parts of {model}, got those of {', '.join(sorted(self.models))}"
            )
        return self.models[model]

    def parts(self, work: Work, items: int, limits: CoreLimits, zipf: float = ZIPF) -> BatchParts:
        """A batch of a measured size on a core with other limits, the others idle.

        Raises:
            InputError: no such model, or batch size, was measured.
        """
        batch = next((b for b in self.batches(work.name) if b.items == items), None)
        if batch is None:
            sizes = ", ".join(str(b.items) for b in self.batches(work.name))
            raise InputError(f"anchor, batch of {work.name}: expected one of {sizes}, got {items}")
        mine, spent = self.limits, dict.fromkeys(KINDS, 0.0)
        by = {
            "rows": limits.row_s(hot(work, limits, zipf)) / mine.row_s(hot(work, mine)),
            "other": mine.stream_gb_per_s["l2"] / limits.stream_gb_per_s["l2"],
        }
        for p in batch.operators:
            ratio = limits.product_s(p.rows) / mine.product_s(p.rows) if p.kind == "product" else by[p.kind]
            spent[p.kind] += p.seconds * ratio
        launches = max(0.0, batch.seconds - sum(p.seconds for p in batch.operators))
        return BatchParts(
            spent["product"], spent["rows"], spent["other"], launches * limits.operator_us / mine.operator_us
        )

    def time(self, spec: CpuSpec, work: Work, items: int, busy: int = 1) -> Parts:
        """A batch of a measured size on a machine that is known from data sheets, while `busy` cores score.

        What busy cores and copies do to caches and bandwidth is the analytic model's (`cpu`), in proportion.
        """
        idle, factors = self.parts(work, items, limits_of(spec, self.limits), spec.zipf), self.factors
        moved, alone = traffic(spec, work, items, busy), traffic(spec.but(copies="shared"), work, items)
        compute_s = work.flops(items) / (spec.peak_flops * spec.efficiency)
        all_s = compute_s + moved.cached_s + moved.weights_s
        products = factors.products * idle.products * all_s / (compute_s + alone.cached_s + alone.weights_s)
        looked_up = alone.hit_s + alone.miss_s
        rows = factors.rows * idle.rows * ((moved.hit_s + moved.miss_s) / looked_up if looked_up else 1.0)
        other, launches = factors.other * idle.other, factors.launches * idle.launches + 1e-6 * spec.batch_us
        waits = rows * (moved.miss_s / (moved.hit_s + moved.miss_s) if looked_up else 0.0)
        streamed = products * moved.weights_s / all_s
        fixed = products - streamed + rows - waits + other + launches
        longer = stretch(spec, busy, moved.missed, fixed, waits + streamed)
        return Parts(products + (longer - 1) * streamed, other, rows + (longer - 1) * waits, launches, longer)

    def profile(
        self, spec: CpuSpec, work: Work, *, cores: int | None = None, spread: float = 0.0
    ) -> LatencyProfile:
        """The profile of a model on such a machine, as `cpu.modelled` has it."""
        sizes = [b.items for b in self.batches(work.name)]
        method = f"parts of {self.name}"
        return modelled(spec, work, cores=cores, spread=spread, time=self.time, batches=sizes, method=method)

    def but(self, **factors: float) -> Anchor:
        """This anchor with parts of other length: "products", "rows", "other", "launches" → factor."""
        return replace(self, factors=replace(self.factors, **factors))

    @classmethod
    def read(cls, path: Path) -> Anchor:
        """InputError names what is missing."""
        return cls.from_json(str(path), read_json("anchor", path, "batches by part, as JSON"))

    @classmethod
    def from_json(cls, where: str, data: Any) -> Anchor:
        """InputError names what is missing."""
        if not isinstance(data, dict) or data.get("format") != FORMAT or not data.get("models"):
            got = shown(data.get("format")) if isinstance(data, dict) else shown(data)
            raise InputError(f"anchor {where}: expected parts of batches (format {FORMAT}), got {got}")
        try:
            models = {name: tuple(map(_batch, batches)) for name, batches in data["models"].items()}
        except (KeyError, TypeError, AttributeError) as e:
            expected = "expected items, seconds and operators of batches"
            raise InputError(f"anchor {where}, models: {expected}, got {e!r}") from e
        return cls(str(data.get("name", where)), CoreLimits.from_json(where, data.get("limits")), models)


def _batch(data: Any) -> AnchorBatch:
    operators = tuple(OperatorPart(**p) for p in data["operators"])
    return AnchorBatch(data["items"], data["seconds"], operators)


def hot(work: Work, limits: CoreLimits, zipf: float = ZIPF) -> float:
    """Share of a model's look-ups that the last-level cache answers; popularity of rows falls as k^-zipf."""
    total = sum(g.rows for g in work.gathers)
    cache = limits.cache_bytes["l3"]
    room = max(cache - work.weight_bytes, cache / 2) / max(len(work.gathers), 1)
    return sum(g.rows * hot_share(room / g.row_bytes, g.table_rows, zipf) for g in work.gathers) / max(
        total, 1
    )

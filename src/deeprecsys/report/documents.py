"""The documents that commands write: `--json`, and the result of a run directory.

Names are the keys of the JSON objects, units are in the names; a value is None where it is unknown.
`read_report` reads any of them. How reading and writing work is in `document.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deeprecsys.core.errors import InputError
from deeprecsys.core.target import Target
from deeprecsys.report.document import Document

LIVE, SIMULATED = "live", "simulated"
"""What figures, tables and plots are: of trials on this machine, or of virtual time."""
Unavailable = str
"""`"unavailable"`: what cannot be measured on this machine."""
Interval = tuple[float | None, float | None]
"""Lower and upper end; None where it is open."""


class TargetDocument(Document):
    """The latency target: at least `quantile` of all queries within `latency_ms`."""

    quantile: float | None = None
    latency_ms: float | None = None

    @classmethod
    def of(cls, target: Target) -> TargetDocument:
        """The document of a target."""
        return cls(quantile=target.quantile, latency_ms=1e3 * target.latency_s)

    @property
    def value(self) -> Target | None:
        """The target; None where there can be no such target."""
        quantile = 0.95 if self.quantile is None else self.quantile
        if self.latency_ms is None:
            return None
        try:
            return Target(latency_s=self.latency_ms / 1e3, quantile=quantile)
        except InputError:
            return None


class SizesDocument(Document):
    """The distribution of query sizes, in items."""

    name: str | None = None
    mean: float | None = None
    p50: float | None = None
    p75: float | None = None
    p95: float | None = None
    p99: float | None = None
    cap: int | None = None
    top_quarter_share: float | None = None


class WorkloadDocument(Document):
    """The load: arrivals, sizes, locality of ids."""

    arrivals: str | None = None
    sizes: SizesDocument | None = None
    locality: str | None = None
    lookups: str | None = None
    seed: int | None = None
    trace: str | None = None


class MachineDocument(Document):
    """Where a figure was measured."""

    cpu: str | None = None
    cpu_family_model: str | None = None
    cores: int | None = None
    isa: tuple[str, ...] | None = None
    memory_bytes: int | None = None
    transparent_hugepage: str | None = None
    shmem_huge: str | None = None
    kernel: str | None = None
    python: str | None = None
    versions: Mapping[str, str] | None = None
    power: str | None = None

    def like(self, other: MachineDocument) -> bool:
        """Whether figures of both machines can be compared: kind and number of cores are equal."""
        kinds = ((m.cpu, m.cpu_family_model, m.cores, m.isa) for m in (self, other))
        return next(kinds) == next(kinds)


class ScorerDocument(Document):
    """What computes scores: the engine, its precision, threads for each worker."""

    engine: str | None = None
    precision: str | None = None
    threads: int | None = None


class NodeDocument(ScorerDocument):
    """The node that ran the trials: its workers and its memory."""

    arithmetic: str | None = None
    isa: str | None = None
    isa_not_heeded_by: tuple[str, ...] = ()
    workers: int | None = None
    cores: tuple[tuple[int, ...], ...] = ()
    cores_kept_awake: bool | None = None
    dispatcher: str | None = None
    worker_nice: int | None = None
    rows_scale: float | None = None
    locality: str | None = None
    lookup_share: float | None = None
    gpu: str | None = None
    gpus: int | None = None
    pss_bytes: int | None = None
    table_bytes: int | None = None
    feature_bytes: int | None = None
    huge_page_fraction: float | None = None


class EnergyDocument(Document):
    """What the machine spent during trials."""

    seconds: float | None = None
    cpu_joules: float | Unavailable | None = None
    gpu_watts: tuple[float, ...] | Unavailable | None = None
    joules: float | Unavailable | None = None
    served: int | None = None
    qps_per_watt: float | Unavailable | None = None


class ProfileSource(Document):
    """The profile that a simulation ran on."""

    file: str | None = None
    machine: MachineDocument | None = None


class CostDocument(Document):
    """What a part of a search took."""

    trials: int | None = None
    seconds: float | None = None
    queries: int | None = None
    voids: int | None = None


class SearchDocument(CostDocument):
    """What a search took live, and in virtual time; whether it ended by itself."""

    complete: bool | None = None
    simulated: CostDocument | None = None


class PolicyDocument(Document):
    """A policy and its knobs; those of a policy of one's own are in `more`."""

    policy: str | None = None
    batch_size: int | None = None
    offload_above: int | None = None
    finest: int | None = None
    device_batch: int | None = None
    step: float | None = None
    delay_ms: float | None = None
    timeout_ms: float | None = None


class TrialFigures(Document):
    """One trial in numbers, or several together; latencies over the queries after the warm-up.

    A void trial's load was not the one that was asked for: none of its figures counts.
    """

    void: bool | None = None
    rate_qps: float | None = None
    offered: int | None = None
    completed: int | None = None
    shed: int | None = None
    failed: int | None = None
    mean_ms: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None
    lateness_p99_ms: float | None = None
    utilisation: float | None = None
    stalled_share: float | None = None
    served: float | None = None
    misses: int | None = None
    measured: int | None = None
    miss_rate: float | None = None
    goodput_qps: float | None = None
    throughput_qps: float | None = None


class DeviceDocument(Document):
    """What the workers of one device did in a trial."""

    workers: int | None = None
    batches: int | None = None
    items: int | None = None
    busy_s: float | None = None


class TrialExtra(Document):
    """What the driver of a trial observed in addition; further keys are in `more`."""

    batches: int | None = None
    occupied_s: float | None = None
    seconds_per_item: float | None = None
    stalled_s: float | None = None
    elapsed_s: float | None = None
    node_cpu_share: float | None = None
    abandoned: bool | None = None
    interrupted: bool | None = None
    devices: Mapping[str, DeviceDocument] | None = None
    energy: EnergyDocument | None = None


class TouchedDocument(Document):
    """How much of the tables the queries of a trial looked up, and the size of the last-level cache."""

    bytes: float | None = None
    fraction_of_tables: float | None = None
    llc_bytes: int | None = None


class ProbeDocument(TrialFigures, CostDocument):
    """What all trials at one rate show together."""

    verdict: str | None = None
    miss_low: float | None = None
    miss_high: float | None = None


class CapacityDocument(CostDocument):
    """What a capacity search found: the rate, its interval, and every rate that was tried."""

    outcome: str | None = None
    capacity_qps: float | None = None
    interval_qps: Interval | None = None
    confidence: float | None = None
    resolved: bool | None = None
    point: ProbeDocument | None = None
    probes: tuple[ProbeDocument, ...] = ()

    @property
    def interval(self) -> Interval:
        """Both ends; None where unknown."""
        return self.interval_qps or (None, None)


class CandidateDocument(CapacityDocument, PolicyDocument):
    """A policy that a search tried, and its capacity."""

    qps: float | None = None


class RankedDocument(PolicyDocument, ScorerDocument):
    """An engine that a search by model chose from, and its best policy in virtual time."""

    workers: int | None = None
    simulated_qps: float | None = None


class CurvePointDocument(Document):
    """The capacity of one batch size in virtual time; 0 where it meets the target at no load."""

    batch_size: int | None = None
    qps: float | None = None


class SustainedDocument(Document):
    """What one uninterrupted run, or trials in blocks, say of a rate; see `search.sustain.Sustained`."""

    verdict: str | None = None
    seconds: float | None = None
    queries: int | None = None
    relaxation_times: float | None = None
    trend: float | None = None
    rising: bool | None = None
    miss_rate: float | None = None
    miss_interval: Interval | None = None
    lacks: tuple[str, ...] = ()


class NearPointDocument(Document):
    """The latency at the target's quantile so much above the rate found; None where it has no end."""

    percent: float | None = None
    rate_qps: float | None = None
    latency_ms: float | None = None
    simulated: bool | None = None


class LimitDocument(Document):
    """The highest rate that the machine carries now, without a margin."""

    limit_today_qps: float | None = None
    limit_interval_qps: Interval | None = None
    limit_bound_qps: float | None = None


class ReferenceDocument(Document):
    """The batch by which a machine's drift was seen: its items, and the median of its times."""

    batch: int | None = None
    seconds: float | None = None


class NearDocument(LimitDocument):
    """How far the rate found is from the limit."""

    margin_percent: float | None = None
    margin_chosen: bool | None = None
    drift_percent: float | None = None
    reference: ReferenceDocument | None = None
    near: tuple[NearPointDocument, ...] = ()


class PointDocument(PolicyDocument, TrialFigures, ScorerDocument, LimitDocument):
    """An operating point of `tune`: tuned, static, or eager torch's static one, as it ran."""

    qps: float | None = None
    met: bool | None = None
    miss_interval: Interval | None = None
    verdict: str | None = None
    confirmed_by: CostDocument | None = None
    attempts: int | None = None
    failed_qps: float | None = None
    sustained: SustainedDocument | None = None
    capacity: CapacityDocument | None = None
    energy: EnergyDocument | None = None
    workers: int | None = None
    gpu_share: float | None = None
    emulated: bool | None = None


class FractionDocument(Document):
    """The share of a named bound that a rate reaches."""

    bound: str | None = None
    value: float | None = None


class QualityDocument(Document):
    """Scores at a lower precision compared with those of the reference; see `search.quality.Quality`."""

    reference: str | None = None
    arithmetic: str | None = None
    table_bytes: int | None = None
    queries: int | None = None
    items: int | None = None
    largest_difference: float | None = None
    largest_score: float | None = None
    spearman: float | None = None
    spearman_least: float | None = None
    kendall: float | None = None
    kendall_least: float | None = None
    top_10: float | None = None
    top_10_least: float | None = None
    first: float | None = None


class ModelDocument(Document):
    """A model of the zoo, as `models` lists it."""

    name: str | None = None
    bottleneck: str | None = None
    target_ms: float | None = None
    tables: int | None = None
    table_bytes: int | None = None
    dense_parameters: int | None = None
    flops_per_item: float | None = None
    flops_per_query: float | None = None
    bytes_per_item: float | None = None
    bytes_per_query: float | None = None
    feature_bytes_per_item: float | None = None
    feature_bytes_per_query: float | None = None
    outputs: int | None = None


class Report(ScorerDocument):
    """What the results of all commands have: the model, what scored it, and where."""

    model: str | None = None
    machine: MachineDocument | None = None

    @property
    def all_simulated(self) -> bool:
        """Whether all figures come from virtual time."""
        return False

    @property
    def basis(self) -> str:
        """What the trials are: live or simulated."""
        return SIMULATED if self.all_simulated else LIVE

    @property
    def search_basis(self) -> str:
        """What candidates, probes and capacities are: live or simulated; empty where that is not known."""
        return self.basis


class ProfilePointDocument(Document):
    """Times of batches of one size, as equally spaced quantiles."""

    busy: int | None = None
    batch: int | None = None
    seconds: tuple[float, ...] | float | None = None
    after_idle: bool | None = None


class ProfileDocument(Report):
    """Batch times s(b): what `profile` writes. `core.profile.LatencyProfile` is the strict reading of it."""

    format: str | None = None
    detail: Mapping[str, Any] | None = None
    host_s: float | None = None
    ranks: tuple[float, ...] = ()
    points: tuple[ProfilePointDocument, ...] = ()


class GpuDocument(Document):
    """The accelerator of a node."""

    engine: str | None = None
    workers: int | None = None
    emulated: bool | None = None
    device: str | None = None
    profile: ProfileDocument | None = None


class RunReport(Report):
    """What the results of commands have that offer load to a node."""

    target: TargetDocument | None = None
    workload: WorkloadDocument | None = None
    workers: Mapping[str, int] | None = None
    node: NodeDocument | None = None
    gpu: GpuDocument | None = None
    emulated: bool | None = None


class BoundsDocument(Document):
    """What no policy exceeds, by name, and the share of its own bound that a policy reached."""

    bounds: Mapping[str, float] | None = None
    fraction_of_bound: FractionDocument | None = None


class BenchReport(RunReport, PolicyDocument, TrialFigures):
    """One live trial: what `bench` writes."""

    qps: float | None = None
    offline_qps: float | None = None
    url: str | None = None
    asked_s: float | None = None
    gave_up_after_s: float | None = None
    extra: TrialExtra | None = None
    touched: TouchedDocument | None = None

    @property
    def one_trial(self) -> bool:
        """Whether the figures of a trial are there."""
        return self.offered is not None


class CapacityReport(RunReport, PolicyDocument, TrialFigures, CapacityDocument, NearDocument):
    """The highest rate of one policy within the target: what `capacity` writes."""

    qps: float | None = None
    sustained: SustainedDocument | None = None
    search: CostDocument | None = None


class SimulateReport(RunReport, PolicyDocument, TrialFigures, CapacityDocument, BoundsDocument):
    """One trial, or the capacity of a policy, in virtual time: what `simulate` writes."""

    simulated: bool | None = True
    profile: ProfileSource | None = None
    qps: float | None = None
    load: float | None = None
    stable: bool | None = None
    static: PointDocument | None = None
    ratio: float | None = None
    candidates: tuple[CandidateDocument, ...] = ()
    batch_curve: tuple[CurvePointDocument, ...] = ()
    gpu_share: float | None = None

    @property
    def all_simulated(self) -> bool:
        return True

    @property
    def searched(self) -> bool:
        """Whether a capacity was searched, instead of one trial run."""
        return self.outcome is not None or bool(self.probes)

    @property
    def one_trial(self) -> bool:
        """Whether the figures of one trial are there, and no search's."""
        return self.offered is not None and not self.searched


class TuneReport(RunReport, BoundsDocument, NearDocument):
    """The static baseline and the tuned operating point: what `tune` writes."""

    profile: ProfileDocument | None = None
    static: PointDocument | None = None
    tuned: PointDocument | None = None
    eager: PointDocument | None = None
    engine_gain: float | None = None
    engine_gain_interval: Interval | None = None
    scheduling_gain: float | None = None
    scheduling_gain_interval: Interval | None = None
    kept_static: bool | None = None
    ratio: float | None = None
    ratio_interval: Interval | None = None
    candidates: tuple[CandidateDocument, ...] = ()
    method: str | None = None
    search: SearchDocument | None = None
    confirmation: CostDocument | None = None
    precision_allowed: str | None = None
    quality: QualityDocument | None = None
    setups: tuple[RankedDocument, ...] = ()
    warnings: tuple[str, ...] = ()
    offline_qps: float | None = None
    simulated: Mapping[str, float] | None = None
    simulator_error: float | None = None
    pace: float | None = None
    paced_simulator_error: float | None = None
    batch_curve: tuple[CurvePointDocument, ...] = ()

    @property
    def search_basis(self) -> str:
        return {"live": LIVE, "model": SIMULATED}.get(self.method or "", "")


class QualityReport(Report):
    """What a lower precision did to scores and rankings: what `quality` writes."""

    workload: WorkloadDocument | None = None
    quality: QualityDocument | None = None


AnyReport = BenchReport | CapacityReport | SimulateReport | TuneReport | QualityReport | ProfileDocument


def read_report(value: Any, of: str = "result") -> AnyReport:
    """The result of any command, by the keys that it has.

    Args:
        value: from JSON; infinite numbers and nan restored.
        of: what problems call it.
    """
    return _kind(value if isinstance(value, Mapping) else {}).from_json(value, of)


def _kind(given: Mapping[str, Any]) -> type[AnyReport]:
    if given.get("simulated") is True:
        return SimulateReport
    if given.get("tuned") or given.get("candidates"):
        return TuneReport
    if "points" in given:
        return ProfileDocument
    if "probes" in given:
        return CapacityReport
    return QualityReport if isinstance(given.get("quality"), Mapping) else BenchReport

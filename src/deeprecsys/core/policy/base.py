"""The interface of a policy: what it is asked, and what it may answer. The dispatcher carries it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from deeprecsys.core.errors import InputError, at_least, positive
from deeprecsys.core.query import Batch, Query, Slice

CPU = "cpu"
GPU = "gpu"


class View(Protocol):
    """The state of a node that a policy may use in a decision."""

    def workers(self, device: str) -> int:
        """Workers of the device that are alive."""
        ...

    def idle(self, device: str) -> int:
        """Idle workers of the device."""
        ...

    def waiting_items(self, device: str) -> int:
        """Items in the device's line, not yet started."""
        ...


class LineView(Protocol):
    """The state of a device's line, which is not empty, when a batch is formed."""

    @property
    def device(self) -> str: ...

    @property
    def head(self) -> Slice:
        """The slice that comes first."""
        ...

    @property
    def items(self) -> int:
        """Items waiting."""
        ...

    @property
    def slices(self) -> int:
        """Slices waiting."""
        ...

    @property
    def newest_s(self) -> float:
        """Arrival of the query that was put into the line last."""
        ...

    @property
    def deferred(self) -> bool:
        """Whether the head has been deferred: then so are all others."""
        ...


class Placement(NamedTuple):
    """Where a query waits, how it is cut, and its place in the line.

    The dispatcher raises InputError if the node lacks the device, or `batch_size` is below 1.
    """

    device: str
    batch_size: int
    """The query is cut on arrival into slices of at most this many items."""
    due_s: float = 0.0
    """Slices of one priority wait in rising order of this value, and of arrival where it is equal. The
    priority of a query (`Query.priority`) comes first."""
    user_first: bool = False
    """Whether a query of several slices has its user stage run first, and once: a slice without items, which
    the others wait for. Only where `Policy.user_first` says that the policy may."""


class Take(NamedTuple):
    """Form a batch from the head of the line now.

    With `split`, a slice is cut where the batch is full, and its rest stays at the head. Without, slices
    stay whole: the first is taken whatever its length.

    Raises:
        InputError: when the dispatcher forms the batch, if `items` is below 1.
    """

    items: int | None = None
    """The most items of the batch; None: the head slice as it is."""
    merge: bool = False
    """Whether slices behind the head may fill the batch."""
    split: bool = True


class Hold(NamedTuple):
    """Start nothing yet: ask again at `until_s`, later than now, or at the next event before that."""

    until_s: float


class Defer(NamedTuple):
    """Move the head's query behind all that is not deferred."""


BatchDecision = Take | Hold | Defer


class Setting(NamedTuple):
    """What the default values of knobs follow from.

    Attributes:
        baseline: batch size of the static baseline, items.
        largest: items of the largest query.
        latency_s: the target's; None where there is no target.
        batch_size: as given; None where it is not.
    """

    baseline: int
    largest: int
    latency_s: float | None = None
    batch_size: int | None = None

    @property
    def cut(self) -> int:
        """The batch size of a policy that cuts: by default the baseline's."""
        return self.baseline if self.batch_size is None else self.batch_size


class Ladder(StrEnum):
    """Values of a knob that follow from the workload."""

    BATCH_SIZES = "batch sizes"  # powers of two up to the largest query, and the static baseline's
    THRESHOLDS = "offload thresholds"  # from 0 to the largest query, by half octaves


class Knob(NamedTuple):
    """A parameter of a policy.

    Attributes:
        name: of the policy's attribute. A name that ends in `_s` is a time: seconds in the attribute,
            milliseconds on the command line and in reports (`delay_s`, `delay_ms`). Other knobs are items.
        default: the value where none is given.
        argument: what `--policy NAME:ARG` calls it; None for a knob that is not given that way.
        values: what a search tries; empty for a knob that keeps its default.
        check: raises InputError on a value that cannot be, given what to call the knob and the value.
    """

    name: str
    default: Callable[[Setting], float | None]
    argument: str | None = None
    values: Ladder | tuple[float, ...] = ()
    check: Callable[[str, Any], object] | None = None


SLICE = Take()
"""The slice at the head, as it was cut on arrival."""
WHOLE = 1 << 62
"""A batch size that cuts nothing."""


class PolicyState:
    """A policy in one run: all on the CPU, first come first served, slices alone."""

    __slots__ = ()

    def place(self, query: Query, view: View, now_s: float) -> Placement:
        """The placement of a query that arrives at `now_s`; `view` is the state of the node."""
        return Placement(CPU, WHOLE)

    def form(self, line: LineView, view: View, now_s: float) -> BatchDecision:
        """What a worker of `line.device` that is idle at `now_s` is to do."""
        return SLICE

    def finished(self, batch: Batch, took_s: float) -> None:
        """A batch ended, `took_s` seconds after its start; not called where part of it failed."""


class Policy(PolicyState):
    """Decides where a query runs, how finely it is cut, and which slices share a batch.

    Derive from it, as a frozen dataclass with slots whose fields are the knobs, and override what differs:
    this class places all on the CPU, first come first served, slices alone, and learns nothing. A policy is
    a hashable value; one that learns as it runs returns a new state from `begin`. `batch_size`, the most
    items of a batch on the CPU, and `offload_above`, beyond which queries may go to the accelerator, are None
    in a class that has no such field.

    Attributes:
        name: by which options ask for the policy, in lower case; by default the class's.
        knobs: how each field is given, its default and what a search tries; a field without a knob needs a
            default value.
        searched: whether `tune` and live retuning try the policy.
        merges_queries: whether slices of several queries may share a batch: then other bounds hold.
        keeps_whole: whether no query is cut that has at most `batch_size` items.
        user_first: whether queries may have a user stage, for which model and engine must have one.
    """

    __slots__ = ()
    name: ClassVar[str]
    knobs: ClassVar[tuple[Knob, ...]] = ()
    searched: ClassVar[bool] = True
    merges_queries: ClassVar[bool] = False
    keeps_whole: ClassVar[bool] = False
    user_first: ClassVar[bool] = False

    if TYPE_CHECKING:

        @property
        def batch_size(self) -> int | None: ...

        @property
        def offload_above(self) -> int | None: ...

    def __init_subclass__(cls) -> None:
        if "name" not in cls.__dict__:
            cls.name = cls.__name__.lower()
        # Not set on this class: a dataclass takes an inherited attribute for a field's default value.
        for knob in ("batch_size", "offload_above"):
            if not hasattr(cls, knob) and knob not in cls.__annotations__:
                setattr(cls, knob, None)

    def __post_init__(self) -> None:
        for knob in self.knobs:
            value = getattr(self, knob.name)
            if knob.check and value is not None:
                knob.check(knob.name.removesuffix("_s").replace("_", " "), value)

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices on which this policy may place queries."""
        return (CPU,)

    def begin(self) -> PolicyState:
        """The state of one run; the policy itself where it keeps none."""
        return self

    def describe(self) -> dict[str, Any]:
        """Name and knobs as JSON values, for reports; `batch_size` and `offload_above` are always present."""
        found: dict[str, Any] = {"policy": self.name, "batch_size": self.batch_size}
        for field in fields(self):  # type: ignore[arg-type] # each policy is a dataclass
            key, value = described_as(field.name), getattr(self, field.name)
            found[key] = value if key == field.name else 1e3 * value
        return found | {"offload_above": self.offload_above}

    @classmethod
    def from_description(cls, known: dict[str, Any]) -> Policy:
        """The policy that `describe` describes.

        Raises:
            InputError: a knob is missing, or its value cannot be.
        """
        values = {}
        for field in fields(cls):  # type: ignore[arg-type] # each policy is a dataclass
            key = described_as(field.name)
            if key not in known:
                raise InputError(f"policy {cls.name}: expected a value of {key}, got none")
            values[field.name] = known[key] / 1e3 if key != field.name else known[key]
        return cls(**values)


def described_as(knob: str) -> str:
    """The key of a knob in reports: times, which end in `_s`, are given in milliseconds there."""
    return f"{knob[:-2]}_ms" if knob.endswith("_s") else knob


ITEMS = partial(at_least, 1)
"""The check of a number of items of at least 1."""
BATCH_SIZE = Knob("batch_size", lambda s: s.cut, values=Ladder.BATCH_SIZES, check=ITEMS)
"""The batch size of a policy that cuts: by default the static baseline's."""
WHOLE_BATCH = Knob("batch_size", lambda s: s.largest if s.batch_size is None else s.batch_size, check=ITEMS)
"""The batch size of a policy that keeps queries whole: by default the largest query."""
FINEST = Knob("finest", lambda s: max(1, s.cut // 4), "FINEST", Ladder.BATCH_SIZES)
"""The finest cut: by default a quarter of the batch size."""
OFFLOAD_ABOVE = Knob("offload_above", lambda s: s.cut, values=Ladder.THRESHOLDS, check=partial(at_least, 0))
"""The threshold of a policy that must have one: by default the batch size."""
LATENCY = Knob("latency_s", lambda s: s.latency_s, check=positive)
"""A time to go by: the target's latency."""
DEVICE_BATCH = Knob("device_batch", lambda s: 2 * s.largest, "DEVICE_BATCH", check=ITEMS)
"""Items that share a batch of an accelerator: by default twice the largest query."""

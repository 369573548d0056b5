"""Policies: how queries become batches on devices. Each is a value; the dispatcher carries it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from deeprecsys.core.errors import InputError
from deeprecsys.core.query import Query

CPU = "cpu"
GPU = "gpu"


class View(Protocol):
    """What a policy may see of a node when it decides."""

    def workers(self, device: str) -> int:
        """Workers of the device that are alive."""
        ...

    def idle(self, device: str) -> int:
        """Workers of the device with nothing to do."""
        ...

    def waiting_items(self, device: str) -> int:
        """Items in the device's line, not yet started."""
        ...


class Placement(NamedTuple):
    """Where a query goes, and the most items that one batch of it may hold."""

    device: str
    batch_size: int


class Policy(Protocol):
    """Decides where a query runs and how finely it is cut. Frozen, hashable, comparable."""

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that this policy may place queries on."""
        ...

    def place(self, query: Query, view: View, now_s: float) -> Placement:
        """The placement of a query that arrives at `now_s` at a node that looks like `view`."""
        ...

    def describe(self) -> dict[str, Any]:
        """Name and knobs, for reports."""
        ...


@dataclass(frozen=True, slots=True)
class Static:
    """The baseline: one batch size for good, all work on the CPU, one first-come-first-served line."""

    batch_size: int
    devices: tuple[str, ...] = (CPU,)

    def __post_init__(self) -> None:
        _at_least_one("batch size", self.batch_size)

    @classmethod
    def baseline(cls, largest_query: int, cores: int) -> Static:
        """The usual choice: the largest query spread over all cores (paper §V; docs/facts.md §4)."""
        return cls(batch_size=-(-largest_query // cores))

    def place(self, query: Query, view: View, now_s: float) -> Placement:
        return Placement(CPU, self.batch_size)

    def describe(self) -> dict[str, Any]:
        return {"policy": "static", "batch_size": self.batch_size, "offload_above": None}


@dataclass(frozen=True, slots=True)
class DeepRecSched:
    """The paper's policy (§IV): cut queries into batches over the cores, offload large ones whole.

    Queries of more than `offload_above` items go to the accelerator uncut; None keeps all on the CPU,
    0 sends all away.
    """

    batch_size: int
    offload_above: int | None = None

    def __post_init__(self) -> None:
        _at_least_one("batch size", self.batch_size)
        if self.offload_above is not None and self.offload_above < 0:
            raise InputError(f"offload above: expected 0 or more items, got {self.offload_above}")

    @property
    def devices(self) -> tuple[str, ...]:
        return (CPU,) if self.offload_above is None else (CPU, GPU)

    def place(self, query: Query, view: View, now_s: float) -> Placement:
        if self.offload_above is not None and query.size > self.offload_above:
            return Placement(GPU, query.size)
        return Placement(CPU, self.batch_size)

    def describe(self) -> dict[str, Any]:
        return {
            "policy": "deeprecsched",
            "batch_size": self.batch_size,
            "offload_above": self.offload_above,
        }


def _at_least_one(field: str, value: int) -> None:
    if value < 1:
        raise InputError(f"{field}: expected at least 1 item, got {value}")

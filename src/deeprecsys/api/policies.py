"""Policies by name, as `--policy NAME[:ARG]`, `--batch-size` and `--offload-above` describe them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deeprecsys.core.errors import InputError, unknown
from deeprecsys.core.policy import (
    Adaptive,
    BentoML,
    Clipper,
    Coalescing,
    Deadline,
    DeepRecSched,
    Earliest,
    Offload,
    Policy,
    Static,
    TFServing,
    Triton,
)
from deeprecsys.core.target import Target
from deeprecsys.workload import spec


@dataclass(frozen=True)
class Knobs:
    """What a policy may be told.

    Attributes:
        name: of the policy.
        batch_size: as given; None for the policy's own default.
        baseline: the static baseline's batch size.
        largest: items of the largest query.
        offload_above: as given.
        target: what is to be met; None where nobody said.
        arg: what stands behind the policy's name; None for its default.
    """

    name: str
    batch_size: int | None
    baseline: int
    largest: int
    offload_above: int | None
    target: Target | None
    arg: float | None

    @property
    def cut(self) -> int:
        """The batch size of a policy that cuts: by default the baseline's."""
        return self.baseline if self.batch_size is None else self.batch_size

    @property
    def whole(self) -> int:
        """The batch size of a policy that keeps queries whole: by default the largest query."""
        return self.largest if self.batch_size is None else self.batch_size

    @property
    def finest(self) -> int:
        """Items of the finest cut: by default a quarter of the batch size."""
        return self.items("FINEST", max(1, self.cut // 4))

    @property
    def latency_s(self) -> float:
        """The target's.

        Raises:
            InputError: there is no target.
        """
        if self.target is None:
            raise InputError(f"--sla-ms: expected a target in milliseconds, as policy {self.name} needs one")
        return self.target.latency_s

    @property
    def above(self) -> int:
        """The threshold of a policy that must have one: by default the batch size."""
        return self.cut if self.offload_above is None else self.offload_above

    @property
    def device_batch(self) -> int:
        """Items that share an accelerator's batch: by default twice the largest query."""
        return self.items("DEVICE_BATCH", 2 * self.largest)

    def items(self, what: str, default: int) -> int:
        """The argument as a number of items."""
        return default if self.arg is None else spec.whole(f"--policy {self.name}: {what}", self.arg)

    def wait_s(self, what: str) -> float:
        """The argument, given in milliseconds, as a wait: by default none."""
        most_ms = 1e9
        return spec.within(f"--policy {self.name}: {what}", self.arg or 0.0, 0.0, most_ms) / 1e3


POLICIES: dict[str, tuple[str | None, Callable[[Knobs], Policy]]] = {
    "deeprecsched": (None, lambda k: DeepRecSched(k.cut, k.offload_above)),
    "static": (None, lambda k: Static(k.cut)),
    "adaptive": ("FINEST", lambda k: Adaptive(k.cut, k.finest)),
    "coalescing": ("FINEST", lambda k: Coalescing(k.cut, k.finest)),
    "deadline": (None, lambda k: Deadline(k.cut, k.latency_s)),
    "triton": ("DELAY_MS", lambda k: Triton(k.whole, k.wait_s("DELAY_MS"))),
    "tf-serving": ("TIMEOUT_MS", lambda k: TFServing(k.cut, k.wait_s("TIMEOUT_MS"))),
    "bentoml": (None, lambda k: BentoML(k.whole)),
    "offload": ("DEVICE_BATCH", lambda k: Offload(k.cut, k.above, k.device_batch)),
    "earliest": ("DEVICE_BATCH", lambda k: Earliest(k.cut, k.above, k.device_batch)),
    "clipper": ("STEP", lambda k: Clipper(k.latency_s, k.items("STEP", 16))),
}
"""Name -> what its argument is, and how it is made."""
OFFLOADING = ("deeprecsched", "offload", "earliest")

FORMS = ", ".join(f"{name}[:{arg}]" if arg else name for name, (arg, _) in POLICIES.items())
"""All names with their arguments, for help."""


WHOLE = ("deeprecsched", "static", "triton", "bentoml")
"""The policies that keep queries whole, if their batch size lets them."""


def check_whole(text: str, batch_size: int | None, largest: int) -> None:
    """Raise InputError if the options would cut queries that must stay whole."""
    name, _ = spec.split(text)
    reason = "as this model scores the items of a query together"
    if name in POLICIES and name not in WHOLE:
        raise InputError(f"--policy: expected one of {', '.join(WHOLE)}, {reason}, got {name}")
    if batch_size is not None and batch_size < largest:
        raise InputError(
            f"--batch-size: expected none or at least the largest query, {largest}, {reason}, "
            f"got {batch_size}"
        )


def policy_of(
    text: str,
    batch_size: int | None,
    offload_above: int | None,
    *,
    baseline: Static,
    largest: int,
    target: Target | None,
) -> Policy:
    """The policy that the options name.

    Args:
        text: `NAME[:ARG]`.
        batch_size, offload_above: as given; None where not.
        baseline: the static baseline.
        largest: items of the largest query.
        target: what is to be met; None where nobody said.

    Raises:
        InputError: no such policy, an argument that it does not take, a value that cannot be.
    """
    name, args = spec.split(text)
    if name not in POLICIES:
        raise unknown("policy", name, POLICIES)
    what, make = POLICIES[name]
    if args and what is None:
        raise InputError(f"--policy {name}: arguments: expected none, got {','.join(args)!r}")
    given = spec.numbers(f"--policy {name}", args, {what: float("nan")} if what else {})
    if offload_above is not None and name not in OFFLOADING:
        raise InputError(
            f"--offload-above: expected policy {', '.join(OFFLOADING)}, got {name}, which never offloads"
        )
    if batch_size is not None and name == "clipper":
        raise InputError(
            f"--batch-size: expected none with policy clipper, which finds its own, got {batch_size}"
        )
    arg = given[0] if args else None
    return make(Knobs(name, batch_size, baseline.batch_size, largest, offload_above, target, arg))

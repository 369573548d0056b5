"""Policies by name, as `--policy NAME[:ARG]`, `--batch-size` and `--offload-above` describe them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deeprecsys.core.errors import InputError, unknown
from deeprecsys.core.policy import (
    Adaptive,
    AdditiveIncrease,
    Coalescing,
    DeadlineOrder,
    DeepRecSched,
    DynamicBatching,
    FixedSplit,
    LeastSquares,
    Policy,
    Static,
)
from deeprecsys.core.target import Target
from deeprecsys.workload import spec


@dataclass(frozen=True)
class Knobs:
    """What a policy may be told.

    Attributes:
        batch_size: as given; None for the policy's own default.
        baseline: the static baseline's batch size.
        largest: items of the largest query.
        offload_above: as given.
        latency_s: the target's.
        arg: what stands behind the policy's name; None for its default.
    """

    batch_size: int | None
    baseline: int
    largest: int
    offload_above: int | None
    latency_s: float
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
        return max(1, self.cut // 4) if self.arg is None else spec.whole("--policy: finest", self.arg)

    @property
    def wait_s(self) -> float:
        """A wait given in milliseconds: by default none."""
        return (self.arg or 0.0) / 1e3


POLICIES: dict[str, tuple[str | None, Callable[[Knobs], Policy]]] = {
    "deeprecsched": (None, lambda k: DeepRecSched(k.cut, k.offload_above)),
    "static": (None, lambda k: Static(k.cut)),
    "adaptive": ("FINEST", lambda k: Adaptive(k.cut, k.finest)),
    "coalescing": ("FINEST", lambda k: Coalescing(k.cut, k.finest)),
    "deadline": (None, lambda k: DeadlineOrder(k.cut, k.latency_s)),
    "triton": ("DELAY_MS", lambda k: DynamicBatching(k.whole, k.wait_s)),
    "tf-serving": ("TIMEOUT_MS", lambda k: FixedSplit(k.cut, k.wait_s)),
    "bentoml": (None, lambda k: LeastSquares(k.whole)),
    "clipper": ("STEP", lambda k: AdditiveIncrease(k.latency_s, spec.whole("--policy: step", k.arg or 16))),
}
"""Name -> what its argument is, and how it is made."""

FORMS = ", ".join(f"{name}[:{arg}]" if arg else name for name, (arg, _) in POLICIES.items())
"""All names with their arguments, for help."""


def policy_of(
    text: str,
    batch_size: int | None,
    offload_above: int | None,
    *,
    baseline: Static,
    largest: int,
    target: Target,
) -> Policy:
    """The policy that the options name.

    Args:
        text: `NAME[:ARG]`.
        batch_size, offload_above: as given; None where not.
        baseline: the static baseline.
        largest: items of the largest query.
        target: what is to be met.

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
    if offload_above is not None and name != "deeprecsched":
        raise InputError(f"--offload-above: expected policy deeprecsched, got {name}, which never offloads")
    arg = given[0] if args else None
    return make(Knobs(batch_size, baseline.batch_size, largest, offload_above, target.latency_s, arg))

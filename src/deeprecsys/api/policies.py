"""Policies by name, as `--policy NAME[:ARG]`, `--batch-size` and `--offload-above` describe them."""

from __future__ import annotations

from deeprecsys.core.errors import InputError
from deeprecsys.core.policy import Knob, Policy, PolicyBase, Setting, Static
from deeprecsys.core.policy.registry import POLICIES, make, offloads, policy_class
from deeprecsys.core.target import Target
from deeprecsys.workload import spec

MOST_MS = 1e9
"""The longest time that an argument may give, milliseconds."""


def _form(kind: type[PolicyBase]) -> str:
    knob = _argument(kind)
    return f"{kind.name}[:{knob.argument}]" if knob else kind.name


def _argument(kind: type[PolicyBase]) -> Knob | None:
    """The knob that `NAME:ARG` gives."""
    return next((knob for knob in kind.knobs if knob.argument), None)


FORMS = ", ".join(_form(kind) for kind in POLICIES.values())
"""The built-in names with their arguments, for help."""


def check_whole(text: str, batch_size: int | None, largest: int) -> None:
    """Raise InputError if the options would cut queries that must stay whole."""
    kind = policy_class(spec.split(text)[0])
    reason = "as this model scores the items of a query together"
    if not kind.keeps_whole:
        whole = ", ".join(name for name, other in POLICIES.items() if other.keeps_whole)
        raise InputError(f"--policy: expected one of {whole}, {reason}, got {kind.name}")
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
        target: what is to be met; None where none is given.

    Raises:
        InputError: no such policy, an argument that it does not take, a value that cannot be.
    """
    name, args = spec.split(text)
    kind = policy_class(name)
    names = [knob.name for knob in kind.knobs]
    given: dict[str, float | None] = _given(kind, args)
    if offload_above is not None:
        if "offload_above" not in names:
            able = ", ".join(n for n, other in POLICIES.items() if offloads(other))
            raise InputError(f"--offload-above: expected policy {able}, got {name}, which never offloads")
        given["offload_above"] = offload_above
    if batch_size is not None and "batch_size" not in names:
        raise InputError(
            f"--batch-size: expected none with policy {name}, which finds its own, got {batch_size}"
        )
    setting = Setting(baseline.batch_size, largest, target.latency_s if target else None, batch_size)
    return make(kind, setting, **given)


def _given(kind: type[PolicyBase], args: list[str]) -> dict[str, float | None]:
    """The value of the knob that stands behind the name."""
    knob, asked = _argument(kind), f"--policy {kind.name}"
    if knob is None or knob.argument is None:
        if args:
            raise InputError(f"{asked}: arguments: expected none, got {','.join(args)!r}")
        return {}
    if not args:
        return {}
    (value,) = spec.numbers(asked, args, {knob.argument: None})
    what = f"{asked}: {knob.argument}"
    if knob.name.endswith("_s"):
        return {knob.name: spec.within(what, value, 0.0, MOST_MS) / 1e3}
    return {knob.name: spec.whole(what, value)}

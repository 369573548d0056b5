"""Policies by name, as `--policy`, `--batch-size` and `--offload-above` describe them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deeprecsys.core.errors import InputError, unknown
from deeprecsys.core.policy import Knob, Policy, Setting, Static
from deeprecsys.core.policy.registry import POLICIES, make, offloads, register
from deeprecsys.core.target import Target
from deeprecsys.plugins import installed, load, load_installed
from deeprecsys.workload import spec

GROUP = "deeprecsys.policies"
"""Entry points of installed policies."""
MOST_MS = 1e9
"""The longest time that an argument may give, milliseconds."""
LOADED: dict[str, str] = {}
"""The text by which another process loads a policy, by the name of each that is not built in."""


def _form(kind: type[Policy]) -> str:
    knob = _argument(kind)
    return f"{kind.name}[:{knob.argument}]" if knob else kind.name


def _argument(kind: type[Policy]) -> Knob | None:
    """The knob that `NAME:ARG` gives."""
    return next((knob for knob in kind.knobs if knob.argument), None)


FORMS = ", ".join(_form(kind) for kind in POLICIES.values()) + ", FILE.py:Class, module:Class"
"""All built-in names with their arguments, and what else names a policy, for help."""


def class_of(text: str) -> tuple[type[Policy], list[str]]:
    """The policy class that a text names, and its arguments as text.

    Args:
        text: `NAME[:ARG]` of a built-in or installed policy, `FILE.py:Class[:ARG]` or `module:Class[:ARG]`.

    Raises:
        InputError: there is none, it cannot be imported, or it is no policy.
    """
    name, args = spec.split(text)
    if name in POLICIES:
        return POLICIES[name], args
    if name in installed(GROUP):
        return _registered(load_installed("policy", GROUP, name), name), args
    where, _, rest = text.strip().partition(":")
    attribute, colon, argument = rest.partition(":")
    if not attribute.isidentifier():
        raise unknown("policy", name, (*POLICIES, *installed(GROUP)))
    where = str(Path(where).resolve()) if where.endswith(".py") else where
    kind = load("policy", f"{where}:{attribute}")
    return _registered(kind, f"{where}:{attribute}"), spec.split(f"_:{argument}")[1] if colon else []


def _registered(kind: object, text: str) -> type[Policy]:
    found = register(kind)
    LOADED[found.name] = text
    return found


def policies_to_search(named: Iterable[str] = ()) -> list[type[Policy]]:
    """The policies that a search tries: built-in and installed ones that ask for it, and those named.

    Raises:
        InputError: one is named that does not exist, or with an argument.
    """
    for name in installed(GROUP):
        class_of(name)
    asked = []
    for text in named:
        kind, args = class_of(text)
        if args:
            raise InputError(f"--policy: expected {kind.name} without an argument, got {','.join(args)!r}")
        asked.append(kind)
    return [kind for kind in POLICIES.values() if kind.searched or kind in asked]


def from_description(known: dict[str, Any]) -> Policy:
    """The policy that `Policy.describe` describes, a registered or an installed one.

    Raises:
        InputError: no such policy, or a knob is missing.
    """
    return class_of(known["policy"])[0].from_description(known)


def policy_of(
    given: str | Policy,
    batch_size: int | None,
    offload_above: int | None,
    *,
    largest: int,
    workers: int,
    target: Target | None,
    splits: bool = True,
) -> Policy:
    """The policy that options name, or the one given.

    Args:
        given: a policy, or a text as of `class_of`.
        batch_size, offload_above: as given; None where not.
        largest: items of the largest query; workers: of the CPU.
        target: what is to be met; None where none is given.
        splits: queries may be cut.

    Raises:
        InputError: no such policy, an argument that it does not take, a value that cannot be.
    """
    if isinstance(given, Policy):
        if batch_size is not None or offload_above is not None:
            raise InputError("--batch-size, --offload-above: expected none with a policy that has its own")
        if not splits:
            _check_whole(type(given), given.batch_size, largest)
        return given
    kind, args = class_of(given)
    if not splits:
        _check_whole(kind, batch_size, largest)
    names = [knob.name for knob in kind.knobs]
    values: dict[str, float | None] = _argument_of(kind, args)
    if offload_above is not None:
        if "offload_above" not in names:
            able = ", ".join(n for n, other in POLICIES.items() if offloads(other))
            raise InputError(
                f"--offload-above: expected policy {able}, got {kind.name}, which never offloads"
            )
        values["offload_above"] = offload_above
    if batch_size is not None and "batch_size" not in names:
        raise InputError(
            f"--batch-size: expected none with policy {kind.name}, which finds its own, got {batch_size}"
        )
    static = Static.baseline(largest, workers if splits else 1).batch_size
    return make(kind, Setting(static, largest, target.latency_s if target else None, batch_size), **values)


def _check_whole(kind: type[Policy], batch_size: int | None, largest: int) -> None:
    """Raise InputError if a policy would cut queries that must stay whole."""
    reason = "as this model scores the items of a query together"
    if not kind.keeps_whole:
        whole = ", ".join(name for name, other in POLICIES.items() if other.keeps_whole)
        raise InputError(f"--policy: expected one of {whole}, {reason}, got {kind.name}")
    if batch_size is not None and batch_size < largest:
        raise InputError(
            f"--batch-size: expected none or at least the largest query, {largest}, {reason}, "
            f"got {batch_size}"
        )


def _argument_of(kind: type[Policy], args: list[str]) -> dict[str, float | None]:
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

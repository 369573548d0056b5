"""Policies by name. Built-in ones are here from the start; `register` adds others (`deeprecsys.plugins`)."""

from __future__ import annotations

from typing import Any

from deeprecsys.core.errors import InputError
from deeprecsys.core.policy.adaptive import Adaptive
from deeprecsys.core.policy.base import Ladder, Policy, Setting
from deeprecsys.core.policy.bentoml import BentoML
from deeprecsys.core.policy.clipper import Clipper
from deeprecsys.core.policy.coalescing import Coalescing
from deeprecsys.core.policy.deadline import Deadline
from deeprecsys.core.policy.deeprecsched import DeepRecSched
from deeprecsys.core.policy.earliest import Earliest
from deeprecsys.core.policy.offload import Offload
from deeprecsys.core.policy.static import Static
from deeprecsys.core.policy.tf_serving import TFServing
from deeprecsys.core.policy.triton import Triton
from deeprecsys.core.policy.user_first import UserFirst

BUILT_IN: tuple[type[Policy], ...] = (
    DeepRecSched, Static, Adaptive, Coalescing, Deadline, Triton, TFServing, BentoML, Offload, Earliest,
    Clipper, UserFirst,
)  # fmt: skip
POLICIES: dict[str, type[Policy]] = {kind.name: kind for kind in BUILT_IN}
"""Name -> class."""


def register(kind: Any) -> type[Policy]:
    """Add a policy class; the class itself.

    Raises:
        InputError: it is no policy class with a name of its own, or its knobs are not its fields.
    """
    if not (isinstance(kind, type) and issubclass(kind, Policy)):
        raise InputError(f"policy: expected a subclass of deeprecsys.core.policy.Policy, got {kind!r}")
    name = getattr(kind, "name", None)
    if not isinstance(name, str) or not name or name != name.lower() or ":" in name:
        raise InputError(
            f"policy {kind.__name__}: expected a name in lower case without a colon, got {name!r}"
        )
    fields = getattr(kind, "__dataclass_fields__", {})
    if not getattr(kind.__dict__.get("__dataclass_params__"), "frozen", False):
        raise InputError(f"policy {name}: expected a frozen dataclass, got {kind.__name__}")
    if wrong := [knob.name for knob in kind.knobs if knob.name not in fields]:
        raise InputError(f"policy {name}: expected a field for each knob, got none for {', '.join(wrong)}")
    known = POLICIES.get(name)
    if known is not None and known is not kind:
        raise InputError(
            f"policy {name}: expected a name that is not taken, got that of {known.__qualname__}"
        )
    POLICIES[name] = kind
    return kind


def make(kind: type[Policy], setting: Setting, **given: float | None) -> Policy:
    """A policy with the given knobs, and the defaults of the others.

    Raises:
        InputError: a value cannot be, or a default follows from a target that is not there.
    """
    values = {k.name: given[k.name] if k.name in given else k.default(setting) for k in kind.knobs}
    if any(value is None and name.endswith("_s") for name, value in values.items()):
        raise InputError(f"--sla-ms: expected a target in milliseconds, as policy {kind.name} needs one")
    return kind(**values)


def offloads(kind: type[Policy]) -> bool:
    """Whether a policy has a threshold above which queries go to an accelerator."""
    return any(knob.values is Ladder.THRESHOLDS for knob in kind.knobs)

"""Engines: what scores a batch on a device. The registry names them; each is imported when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from deeprecsys.core.errors import InputError, unknown
from deeprecsys.engine.protocol import Assembly, Engine, SliceView

__all__ = [
    "ENGINES",
    "PRECISIONS",
    "Assembly",
    "Engine",
    "SliceView",
    "build",
    "check",
    "computes_in",
    "factory",
]

ENGINES = {
    "compiled": "deeprecsys.engine.compiled:CompiledEngine",
    "cuda": "deeprecsys.engine.cuda:CudaEngine",
    "eager": "deeprecsys.engine.eager:EagerEngine",
    "emulated": "deeprecsys.engine.emulated:EmulatedEngine",
    "null": "deeprecsys.engine.null:NullEngine",
    "wait": "deeprecsys.engine.null:WaitEngine",
}
"""Engine name -> `module:attribute` of its factory, a callable from an `Assembly` (and its arguments)."""

PRECISIONS = ("fp32", "bf16", "int8")
"""From the most exact down."""
_COMPUTES_IN = {"eager": ("fp32",)}
"""What an engine computes in, if not in all."""


def check(name: str, precision: str = "fp32") -> str:
    """The part of an engine's name before its arguments; imports nothing.

    Raises:
        InputError: neither a known engine nor a `module:attribute`, or it does not compute in the precision.
    """
    head = name.split(":", 1)[0]
    if head not in ENGINES and ":" not in name:
        raise unknown("engine", name, ENGINES)
    if precision not in (able := computes_in(name)):
        raise InputError(f"precision of engine {head}: expected {' or '.join(able)}, got {precision}")
    return head


def computes_in(name: str) -> tuple[str, ...]:
    """The precisions of an engine, the most exact first."""
    return _COMPUTES_IN.get(name.split(":", 1)[0], PRECISIONS)


def factory(name: str) -> Callable[..., Engine]:
    """The factory of a named engine, or of one of the user's own given as `module:attribute`.

    Raises:
        InputError: no such engine, module or attribute.
    """
    head = check(name)
    module, attribute = ENGINES.get(head, name).split(":", 1)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as e:
        raise InputError(f"engine {name!r}: expected an importable module:attribute, got: {e}") from e
    return found  # type: ignore[no-any-return]


def build(name: str, assembly: Assembly) -> Engine:
    """The engine `NAME` or `NAME:args` over an assembly; args are handed to the factory as text."""
    make = factory(name)
    head, _, args = name.partition(":")
    return make(assembly, args) if head in ENGINES and args else make(assembly)

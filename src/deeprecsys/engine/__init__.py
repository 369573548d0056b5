"""Engines: what scores a batch on a device. `spec` names them; each is imported when asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deeprecsys.engine.protocol import Assembly, Engine, SliceView
from deeprecsys.engine.spec import BUILT_IN, FASTEST, GROUP, PRECISIONS, EngineSpec
from deeprecsys.plugins import installed, load, load_installed

__all__ = ["BUILT_IN", "FASTEST", "PRECISIONS", "Assembly", "Engine", "EngineSpec", "SliceView", "build",
           "factory"]  # fmt: skip


def factory(engine: EngineSpec) -> Callable[..., Engine]:
    """What makes an engine from an `Assembly` (and its arguments); InputError: it cannot be imported."""
    if engine.name not in BUILT_IN and engine.name in installed(GROUP):
        found = load_installed("engine", GROUP, engine.name)
    else:
        found = load("engine", BUILT_IN.get(engine.name, engine.name))
    return found  # type: ignore[no-any-return]


def build(text: str, assembly: Assembly) -> Engine:
    """The engine that a text names, over an assembly; the factory is handed its arguments as text.

    Raises:
        InputError: no such engine, or it refuses the assembly or its arguments.
    """
    engine = EngineSpec.parse(text)
    args: list[Any] = [engine.args] if engine.args else []
    return factory(engine)(assembly, *args, **({} if engine.device is None else {"device": engine.device}))

"""The dense stage on libraries that run whole graphs, without Python between its layers."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from deeprecsys.core.errors import InputError, unknown
from deeprecsys.engine.dense.layout import Buffer, BufferPlace, Layout
from deeprecsys.engine.dense.stage import DenseStage
from deeprecsys.zoo.model import Model

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ROUTES", "Buffer", "BufferPlace", "DenseStage", "Layout", "build", "installed", "lowest"]

ROUTES = {
    "eager": ("deeprecsys.engine.dense.reference", "EagerStage", ()),
    "onnxruntime": ("deeprecsys.engine.dense.ort", "OrtStage", ("onnx", "onnxruntime")),
    "openvino": ("deeprecsys.engine.dense.openvino", "OpenVinoStage", ("onnx", "openvino")),
}
"""Route -> module and class, and the packages that it needs besides torch."""


def installed() -> tuple[str, ...]:
    """The routes whose packages are there; imports none of them."""
    return tuple(r for r, (_, _, needs) in ROUTES.items() if not _missing(needs))


def build(
    route: str, model: Model, network: nn.Module, threads: int = 1, precision: str = "fp32"
) -> DenseStage:
    """A dense stage on the route of that name.

    Args:
        model, network: the dense stage, its weights drawn (`zoo.networks.initialise`).
        threads: compute threads.
        precision: "fp32", or "bf16" on openvino where the CPU computes in it.

    Raises:
        InputError: no such route; not installed; the precision is not available on this CPU; no thread.
    """
    if threads < 1:
        raise InputError(f"threads: expected 1 or more, got {threads}")
    made = _class(route)
    if route == "onnxruntime":
        from deeprecsys.engine.dense.interest import interest_stage

        made = interest_stage(model, threads) or made
    stage: DenseStage = made(model, network, threads, precision)
    return stage


def lowest(route: str, allowed: str) -> str:
    """The lowest precision that a route computes in on this CPU, no lower than allowed: "fp32" or "bf16".

    Dense layers have no int8: where int8 is allowed they take bf16, which is closer to float32.

    Raises:
        InputError: no such route, or it is not installed.
    """
    return "bf16" if allowed != "fp32" and "bf16" in _class(route).precisions() else "fp32"


def _class(route: str) -> Any:
    """The class of a route's stages."""
    if route not in ROUTES:
        raise unknown("dense route", route, ROUTES)
    module, name, needs = ROUTES[route]
    if missing := _missing(needs):
        raise InputError(f"dense route {route}: expected the packages {', '.join(needs)}, "
                         f"got no {' and no '.join(missing)}: pip install {' '.join(missing)}")  # fmt: skip
    return getattr(importlib.import_module(module), name)


def _missing(packages: tuple[str, ...]) -> list[str]:
    return [p for p in packages if importlib.util.find_spec(p) is None]

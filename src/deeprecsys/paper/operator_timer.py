"""A clock around every operator that torch runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True, slots=True)
class OperatorCall:
    """One operator that ran.

    Attributes:
        name: torch's, as `aten.relu.default`.
        recurrent: whether a recurrent layer ran it.
        shapes: of the tensors among its arguments, in order; of a list of tensors, of each.
        seconds: from its call to its return, torch's dispatch included.
    """

    name: str
    recurrent: bool
    shapes: tuple[tuple[int, ...], ...]
    seconds: float


class OperatorTimer(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's own
    """While entered, notes every operator that runs, in order, in `calls`.

    Torch's own profiler writes to standard output.

    Args:
        module: whose recurrent layers are watched.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's own
        self.calls: list[OperatorCall] = []
        self._recurrent = 0
        for layer in module.modules():
            if isinstance(layer, nn.RNNBase) or type(layer).__name__ == "Augru":
                layer.register_forward_pre_hook(self._enter)
                layer.register_forward_hook(self._leave)

    def _enter(self, *_: Any) -> None:
        self._recurrent += 1

    def _leave(self, *_: Any) -> None:
        self._recurrent -= 1

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        start = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        took = time.perf_counter() - start
        self.calls.append(OperatorCall(str(func), self._recurrent > 0, tuple(_shapes(args)), took))
        return result


def _shapes(args: Sequence[Any]) -> list[tuple[int, ...]]:
    found = []
    for a in args:
        if isinstance(a, torch.Tensor):
            found.append(tuple(a.shape))
        elif isinstance(a, list | tuple):
            found += [tuple(x.shape) for x in a if isinstance(x, torch.Tensor)]
    return found

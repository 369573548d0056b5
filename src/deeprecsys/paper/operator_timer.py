"""A clock around every operator that torch runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


class OperatorTimer(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's own
    """While entered, adds up the time within operators, by name and by whether a recurrent layer ran them.

    Torch's own profiler writes to standard output.

    Args:
        module: whose recurrent layers are watched.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's own
        self.spent_s: dict[tuple[str, bool], float] = {}
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
        key = str(func), self._recurrent > 0
        self.spent_s[key] = self.spent_s.get(key, 0.0) + time.perf_counter() - start
        return result

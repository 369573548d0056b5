"""DIN's dense stage: its activation unit on our own compiled code, the head on ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from deeprecsys.engine.dense.attention import Attention, fits
from deeprecsys.engine.dense.graph import OWNER, SCORES, Graph
from deeprecsys.engine.dense.graphs.interest import click_head
from deeprecsys.engine.dense.layout import Buffer, Layout, aligned
from deeprecsys.engine.dense.ort import bind, only_fp32, session
from deeprecsys.engine.dense.protocol import Arrays
from deeprecsys.engine.dense.stage import BufferedStage, Span
from deeprecsys.zoo.interest import Din
from deeprecsys.zoo.model import Model
from deeprecsys.zoo.networks.interest import DinDense
from deeprecsys.zoo.schema import Per

_MOST_BINDINGS = 4096


def suits(model: Model, threads: int) -> bool:
    """Whether `DinStage` can compute a model: its attention is for one thread and for whole vectors."""
    return isinstance(model, Din) and threads == 1 and fits(model.width, model.attention)


class DinStage(BufferedStage):
    """Interests by our attention, of however many slices, then the head. See `OrtStage` for the arguments.

    Raises:
        InputError: another precision than fp32.
    """

    def __init__(self, model: Model, network: nn.Module, threads: int = 1, precision: str = "fp32") -> None:
        only_fp32(precision)
        assert isinstance(model, Din)
        assert isinstance(network, DinDense)
        super().__init__(model)
        self._attention = Attention(network.unit, model.behaviours)
        self._width = model.width
        self._head = [_head(self.layout, model, network, merged) for merged in (False, True)]
        self._moved()

    def _moved(self) -> None:
        self._interest = aligned((self._items, self._width))
        self._owner = np.zeros(self._items, np.int64)
        self._bindings: dict[tuple[int, int, bool], Any] = {}

    def _run(
        self, span: Span, owner: NDArray[np.int64] | None, out: NDArray[np.float32], instead: Arrays
    ) -> None:
        assert (span.item, span.slice, len(instead)) == (0, 0, 0), "one block, and no dense inputs"
        n, merged = span.items, owner is not None
        self._attention.run(
            self.buffers["behaviours"][: span.slices],
            self.buffers["item"][:n],
            self._owner[:n] if owner is None else owner,
            self._interest[:n],
        )
        head = self._bound(span, merged)
        if owner is not None:
            bind(head, OWNER, owner)
        head.bind_output(SCORES, "cpu", 0, np.float32, out.shape, out.ctypes.data)
        self._head[merged].run_with_iobinding(head)

    def _bound(self, span: Span, merged: bool) -> Any:
        """The head's binding, less `owner` and the scores."""
        key = (span.items, span.slices, merged)
        if key not in self._bindings:
            if len(self._bindings) >= _MOST_BINDINGS:
                self._bindings.clear()
            head = self._bindings[key] = self._head[merged].io_binding()
            bind(head, "user", self.buffers["user"][: span.slices])
            bind(head, "interest", self._interest[: span.items])
            bind(head, "item", self.buffers["item"][: span.items])
        return self._bindings[key]


def _head(layout: Layout, model: Din, net: DinDense, merged: bool) -> Any:
    """user [S, ...], interest [n, d], item [n, d] -> scores."""
    by_name = {b.name: b for b in layout.buffers}
    interest = Buffer("interest", Per.ITEM, model.width, 0, {}, False)
    g = Graph(Layout((by_name["user"], interest, by_name["item"])), merged)
    return session(g.model(click_head(g, net.head, "user", "interest", "item"), model.schema.outputs), 1)

"""DIEN's dense stage: its recurrent layers on our own compiled steps, attention and head on ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deeprecsys.engine.dense.graph import OWNER, SCORES, Graph
from deeprecsys.engine.dense.graphs.interest import attention, click_head
from deeprecsys.engine.dense.layout import Buffer, Layout, aligned
from deeprecsys.engine.dense.ort import bind, only_fp32, session
from deeprecsys.engine.dense.protocol import Arrays
from deeprecsys.engine.dense.recurrent import ROWS, Gates, Recurrence, fits, padded
from deeprecsys.engine.dense.stage import BufferedStage, Span
from deeprecsys.zoo.interest import Dien
from deeprecsys.zoo.model import Model
from deeprecsys.zoo.networks.interest import Augru, DienDense
from deeprecsys.zoo.schema import Per

_MOST_BINDINGS = 4096


def suits(model: Model, threads: int) -> bool:
    """Whether `DienStage` can compute a model: its steps are for one thread and for whole vectors."""
    return isinstance(model, Dien) and threads == 1 and fits(model.hidden) and model.behaviours % ROWS == 0


class DienStage(BufferedStage):
    """Interests by GRU once per slice, attention, evolution by AUGRU, head. See `OrtStage` for the arguments.

    Raises:
        InputError: another precision than fp32.
    """

    def __init__(self, model: Model, network: nn.Module, threads: int = 1, precision: str = "fp32") -> None:
        only_fp32(precision)
        assert isinstance(model, Dien)
        assert isinstance(network, DienDense)
        super().__init__(model)
        self._steps, self._hidden = model.behaviours, model.hidden
        self._gru = Recurrence(_gru_gates(network.gru), self._steps, keep=True)
        self._augru = Recurrence(_augru_gates(network.augru), self._steps, keep=False)
        self._attend = [_attention(self.layout, model, network, merged) for merged in (False, True)]
        self._head = [_head(self.layout, model, network, merged) for merged in (False, True)]
        self._moved()

    def _moved(self) -> None:
        slices, items = padded(self._slices), padded(self._items)
        steps, hidden = self._steps, self._hidden
        self._x = aligned((self._slices * steps, 3 * hidden))
        self._states = aligned((slices, steps, hidden))
        self._attention, self._last = aligned((items, steps)), aligned((items, hidden))
        self._ones = np.ones((slices, steps), np.float32)
        self._each = np.arange(slices)
        self._owner = np.zeros(items, np.int64)
        self._bindings: dict[tuple[int, int, bool], tuple[Any, Any]] = {}

    def _run(
        self, span: Span, owner: NDArray[np.int64] | None, out: NDArray[np.float32], instead: Arrays
    ) -> None:
        assert (span.item, span.slice, len(instead)) == (0, 0, 0), "one block, and no dense inputs"
        n, merged = span.items, owner is not None
        attend, head = self._bound(span, merged)
        self._interests(span.slices)
        if owner is not None:
            bind(attend, OWNER, owner)
            bind(head, OWNER, owner)
            self._owner[:n] = owner
        else:
            self._owner[:n] = 0
        self._owner[n : padded(n)] = 0  # rows beyond the last are computed and not read
        self._attend[merged].run_with_iobinding(attend)
        self._augru.run(self._x, self._owner[: padded(n)], self._attention, self._last)
        head.bind_output(SCORES, "cpu", 0, np.float32, out.shape, out.ctypes.data)
        self._head[merged].run_with_iobinding(head)

    def _interests(self, slices: int) -> None:
        """From behaviours to the GRU's states, and to what they add to the AUGRU's steps."""
        rows = slices * self._steps
        x = self._x[:rows]
        self._gru.project(self.buffers["behaviours"][:slices].reshape(rows, -1), x)
        each = self._each[: padded(slices)]
        each[slices:] = 0
        self._gru.run(x, each, self._ones, self._states)
        each[slices:] = np.arange(slices, len(each))
        self._augru.project(self._states[:slices].reshape(rows, -1), x)

    def _bound(self, span: Span, merged: bool) -> tuple[Any, Any]:
        """Bindings of both graphs, less `owner` and the scores."""
        key = (span.items, span.slices, merged)
        if key not in self._bindings:
            if len(self._bindings) >= _MOST_BINDINGS:
                self._bindings.clear()
            attend, head = self._attend[merged].io_binding(), self._head[merged].io_binding()
            item, attention = self.buffers["item"][: span.items], self._attention[: span.items]
            bind(attend, "interests", self._states[: span.slices])
            bind(attend, "item", item)
            attend.bind_output(SCORES, "cpu", 0, np.float32, attention.shape, attention.ctypes.data)
            bind(head, "user", self.buffers["user"][: span.slices])
            bind(head, "state", self._last[: span.items])
            bind(head, "item", item)
            self._bindings[key] = attend, head
        return self._bindings[key]


def _attention(layout: Layout, model: Dien, net: DienDense, merged: bool) -> Any:
    """interests [S, T, hidden], item [n, d] -> attention [n, T]."""
    states = Buffer("interests", Per.QUERY, model.hidden, model.behaviours, {}, False)
    g = Graph(Layout((states, _buffer(layout, "item"))), merged)
    return session(g.model(attention(g, net.attention, "interests"), model.behaviours), 1)


def _head(layout: Layout, model: Dien, net: DienDense, merged: bool) -> Any:
    """user [S, ...], state [n, hidden], item [n, d] -> scores."""
    state = Buffer("state", Per.ITEM, model.hidden, 0, {}, False)
    g = Graph(Layout((_buffer(layout, "user"), state, _buffer(layout, "item"))), merged)
    return session(g.model(click_head(g, net.head, "user", "state", "item"), model.schema.outputs), 1)


def _buffer(layout: Layout, name: str) -> Buffer:
    return next(b for b in layout.buffers if b.name == name)


def _gru_gates(layer: nn.GRU) -> Gates:
    """torch's GRU keeps z of the old state, and ours takes u = 1 - z of the new: its sign is turned."""

    def turned(name: str) -> Tensor:
        reset, update, new = layer.get_parameter(name).chunk(3)
        return torch.cat([reset, -update, new])

    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    return Gates(*(_array(turned(name)) for name in names))


def _augru_gates(cell: Augru) -> Gates:
    parameters = (cell.input.weight, cell.state.weight, cell.input.bias, cell.state.bias)
    return Gates(*(_array(p) for p in parameters))


def _array(parameter: Tensor) -> NDArray[np.float32]:
    """A weight [outputs, inputs] transposed, or a bias."""
    return np.ascontiguousarray(parameter.detach().t().numpy())

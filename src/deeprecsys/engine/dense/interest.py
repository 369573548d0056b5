"""Dense stages of DIN and DIEN: interests on compiled code of our own, the rest on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from deeprecsys.engine.dense import attention, recurrent
from deeprecsys.engine.dense.attention import Attention
from deeprecsys.engine.dense.graph import Graph
from deeprecsys.engine.dense.graphs.interest import attention_weights, click_head
from deeprecsys.engine.dense.layout import Buffer, Layout, aligned
from deeprecsys.engine.dense.ort import Bindings, only_fp32, run
from deeprecsys.engine.dense.recurrent import ROWS, Gates, Recurrence, padded
from deeprecsys.engine.dense.stage import Arrays, BufferRows, DenseStage, Floats, SliceOfItem
from deeprecsys.zoo.interest import Dien, Din
from deeprecsys.zoo.model import Model
from deeprecsys.zoo.networks.interest import DienDense, DinDense
from deeprecsys.zoo.onnx_session import session
from deeprecsys.zoo.schema import SCORES, Per


def interest_stage(model: Model, threads: int) -> Callable[..., DenseStage] | None:
    """The stage that computes a model's costliest layers on our code: for one thread, whole vectors."""
    if threads == 1 and isinstance(model, Din) and attention.fits(model.width, model.attention):
        return DinStage
    if threads == 1 and isinstance(model, Dien) and recurrent.fits(model.hidden):
        return DienStage if model.behaviours % ROWS == 0 else None
    return None


class BoundGraph:
    """A graph on one thread whose inputs are bound once for each shape of batch.

    Args:
        buffers: its inputs.
        write: writes its nodes and names the result, [n, outputs].
    """

    def __init__(self, buffers: tuple[Buffer, ...], write: Callable[[Graph], str], outputs: int) -> None:
        graphs = [Graph(Layout(buffers), merged) for merged in (False, True)]
        self._sessions = [session(g.model(write(g), outputs)) for g in graphs]
        self.forget()

    def forget(self) -> None:
        """Drop the bindings: the arrays are others now."""
        self._bindings = Bindings()

    def run(
        self,
        at: BufferRows,
        arrays: Callable[[BufferRows], Arrays],
        slice_of_item: SliceOfItem,
        out: Floats | None = None,
    ) -> None:
        """Write the result for the items and slices at the buffers' beginning.

        Args:
            arrays: the graph's input arrays for such rows, and `scores` where `out` is None.
        """
        merged = slice_of_item is not None
        session, key = self._sessions[merged], (at, merged)
        binding = self._bindings.get(key)
        if binding is None:
            binding = self._bindings.add(key, session, arrays(at))
        run(session, binding, slice_of_item, out)


class InterestStage(DenseStage):
    """Interests of a whole batch, of however many slices, then the head. See `OrtStage` for the arguments.

    Args:
        width: columns of the interests.

    Raises:
        InputError: another precision than fp32.
    """

    def __init__(self, model: Din | Dien, network: DinDense | DienDense, width: int, precision: str) -> None:
        only_fp32(precision)
        super().__init__(model)
        self._width = width
        by_name = {b.name: b for b in self.layout.buffers}
        self._user, self._item = by_name["user"], by_name["item"]
        interest = Buffer("interest", Per.ITEM, width, 0, {}, False)
        self._head = BoundGraph(
            (self._user, interest, self._item),
            lambda g: click_head(g, network.head, "user", "interest", "item"),
            model.schema.outputs,
        )

    def _moved(self) -> None:
        items = padded(self._items)
        self._interest = aligned((items, self._width))
        self._slice_of_item = np.zeros(items, np.int64)
        self._head.forget()

    def _run(self, at: BufferRows, slice_of_item: SliceOfItem, out: Floats, overrides: Arrays) -> None:
        assert (at.item, at.slice, len(overrides)) == (0, 0, 0), "one block, and no dense inputs"
        self._slice_of_item[: at.items] = 0 if slice_of_item is None else slice_of_item
        self._interests(at, slice_of_item)
        self._head.run(at, self._head_arrays, slice_of_item, out)

    def _head_arrays(self, at: BufferRows) -> Arrays:
        user, item = self.buffers["user"][: at.slices], self.buffers["item"][: at.items]
        return {"user": user, "interest": self._interest[: at.items], "item": item}

    def _interests(self, at: BufferRows, slice_of_item: SliceOfItem) -> None:
        """Write `_interest` [n, width] of the batch's items; `_slice_of_item` holds each item's slice."""
        raise NotImplementedError


class DinStage(InterestStage):
    """Behaviours weighted by the activation unit and summed."""

    def __init__(self, model: Model, network: nn.Module, threads: int = 1, precision: str = "fp32") -> None:
        assert isinstance(model, Din)
        assert isinstance(network, DinDense)
        super().__init__(model, network, model.width, precision)
        self._attention = Attention(network.unit, model.behaviours)
        self._moved()

    def _interests(self, at: BufferRows, slice_of_item: SliceOfItem) -> None:
        n = at.items
        behaviours, item = self.buffers["behaviours"][: at.slices], self.buffers["item"][:n]
        self._attention.run(behaviours, item, self._slice_of_item[:n], self._interest[:n])


class DienStage(InterestStage):
    """Interests by GRU once per slice, attention on ONNX Runtime, evolution by AUGRU per item."""

    def __init__(self, model: Model, network: nn.Module, threads: int = 1, precision: str = "fp32") -> None:
        assert isinstance(model, Dien)
        assert isinstance(network, DienDense)
        super().__init__(model, network, model.hidden, precision)
        self._steps = model.behaviours
        self._gru = Recurrence(_gru_gates(network.gru), self._steps, keep=True)
        cell = network.augru
        parameters = (cell.input.weight, cell.state.weight, cell.input.bias, cell.state.bias)
        self._augru = Recurrence(Gates(*map(_array, parameters)), self._steps, keep=False)
        states = Buffer("interests", Per.QUERY, model.hidden, self._steps, {}, False)
        self._attend = BoundGraph(
            (states, self._item), lambda g: attention_weights(g, network.attention, "interests"), self._steps
        )
        self._moved()

    def _moved(self) -> None:
        super()._moved()
        slices, items, steps = padded(self._slices), padded(self._items), self._steps
        self._x = aligned((self._slices * steps, 3 * self._width))
        self._states = aligned((slices, steps, self._width))
        self._weights = aligned((items, steps))
        self._ones = np.ones((slices, steps), np.float32)
        self._each = np.arange(slices)
        self._attend.forget()

    def _interests(self, at: BufferRows, slice_of_item: SliceOfItem) -> None:
        self._extract(at.slices)
        self._attend.run(at, self._attend_arrays, slice_of_item)
        rows = padded(at.items)
        self._slice_of_item[at.items : rows] = 0  # rows beyond the last are computed and not read
        self._augru.run(self._x, self._slice_of_item[:rows], self._weights, self._interest)

    def _attend_arrays(self, at: BufferRows) -> Arrays:
        states, item = self._states[: at.slices], self.buffers["item"][: at.items]
        return {"interests": states, "item": item, SCORES: self._weights[: at.items]}

    def _extract(self, slices: int) -> None:
        """From behaviours to the GRU's states, and to what they add to the AUGRU's steps."""
        rows = slices * self._steps
        x = self._x[:rows]
        self._gru.project(self.buffers["behaviours"][:slices].reshape(rows, -1), x)
        each = self._each[: padded(slices)]
        each[slices:] = 0
        self._gru.run(x, each, self._ones, self._states)
        each[slices:] = np.arange(slices, len(each))
        self._augru.project(self._states[:slices].reshape(rows, -1), x)


def _gru_gates(layer: nn.GRU) -> Gates:
    """Gates of torch's GRU, which keeps a share z of the old state where ours takes u = 1 - z of the new."""

    def turned(name: str) -> Tensor:
        reset, update, new = layer.get_parameter(name).chunk(3)
        return torch.cat([reset, -update, new])

    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    return Gates(*(_array(turned(name)) for name in names))


def _array(parameter: Tensor) -> Floats:
    """A weight [outputs, inputs] transposed, or a bias."""
    return np.ascontiguousarray(parameter.detach().t().numpy())

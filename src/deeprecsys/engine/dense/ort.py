"""A dense stage on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from numpy.typing import NDArray
from torch import nn

from deeprecsys.core.errors import InputError
from deeprecsys.engine.dense.graphs import GraphSet, block_items, halves_of, merges
from deeprecsys.engine.dense.stage import NOTHING, Arrays, BufferRows, DenseStage, Floats, SliceOfItem
from deeprecsys.zoo.graph_halves import USER
from deeprecsys.zoo.model import Model
from deeprecsys.zoo.onnx_session import session
from deeprecsys.zoo.schema import SCORES, SLICE_OF_ITEM


class OrtStage(DenseStage):
    """ONNX Runtime at fp32. Inputs are bound to the buffers once for each size of batch; nothing is copied.

    Args:
        model, network: the dense stage, its weights drawn.
        threads: compute threads; with one, the caller's own and no other.
        precision: fp32.

    Raises:
        InputError: another precision.
    """

    def __init__(self, model: Model, network: nn.Module, threads: int = 1, precision: str = "fp32") -> None:
        only_fp32(precision)
        super().__init__(model, slice_by_slice=not merges(model, network), block=block_items(network))
        self._sessions = GraphSet(model, network, lambda graph: session(graph, threads))
        self._bindings = Bindings()
        self._halves: tuple[Any, Any] | None = None
        if model.user_stage and (found := halves_of(model, network)):
            assert found.width == model.user_stage
            self._halves = session(found.user, threads), session(found.items, threads)

    def _moved(self) -> None:
        self._bindings = Bindings()

    def run_user(self, user: Floats) -> None:
        self._half(0, BufferRows(0, 0, 0, 1), USER, user, NOTHING)

    def run_items(self, items: int, user: Floats, out: Floats, overrides: Arrays = NOTHING) -> None:
        self._half(1, BufferRows(0, items, 0, 0), SCORES, out, {USER: user, **overrides})

    def _half(self, half: int, at: BufferRows, result: str, out: Floats, others: Arrays) -> None:
        assert self._halves is not None, "a model with a user stage"
        session, key = self._halves[half], (half, at.items, tuple(others))
        binding = self._bindings.get(key)
        if binding is None:
            taken = {i.name for i in session.get_inputs()} - set(others)
            rows = {name: array for name, array in self.rows(at).items() if name in taken}
            binding = self._bindings.add(key, session, rows)
        for name, array in {**others, result: out}.items():
            bind(binding, name, array, result)
        session.run_with_iobinding(binding)

    def _run(self, at: BufferRows, slice_of_item: SliceOfItem, out: Floats, overrides: Arrays) -> None:
        session = self._sessions.choose(at.items, slice_of_item is not None)
        key = (at, tuple(overrides))
        binding = self._bindings.get(key)
        if binding is None:
            rows = {name: array for name, array in self.rows(at).items() if name not in overrides}
            binding = self._bindings.add(key, session, rows)
        for name, array in overrides.items():
            bind(binding, name, array)
        run(session, binding, slice_of_item, out)


class Bindings(dict[Hashable, Any]):
    """A graph's inputs bound to arrays, by batch shape: to bind them anew costs as much as a small batch."""

    MOST = 4096
    """Bindings that are kept; beyond, all are dropped."""

    def add(self, key: Hashable, session: Any, arrays: Arrays) -> Any:
        """A new binding of a session's inputs, and of `scores` if among them, kept under the key."""
        if len(self) >= self.MOST:
            self.clear()
        binding = self[key] = session.io_binding()
        for name, array in arrays.items():
            bind(binding, name, array)
        return binding


def run(session: Any, binding: Any, slice_of_item: SliceOfItem, out: Floats | None) -> None:
    """Run a bound graph.

    Args:
        slice_of_item: [n], each item's slice, for a graph of several slices.
        out: float32, C-contiguous, where the graph's result goes; None where it is bound already.
    """
    if slice_of_item is not None:
        bind(binding, SLICE_OF_ITEM, slice_of_item)
    if out is not None:
        bind(binding, SCORES, out)
    session.run_with_iobinding(binding)


def bind(binding: Any, name: str, array: NDArray[Any], result: str = SCORES) -> None:
    """Let an input be read, or the result be written, where an array lies."""
    to = binding.bind_output if name == result else binding.bind_input
    to(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def only_fp32(precision: str) -> None:
    """Raise InputError for any other precision."""
    if precision != "fp32":
        raise InputError(f"precision of dense route onnxruntime: expected fp32, got {precision}")

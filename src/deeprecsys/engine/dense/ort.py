"""A dense stage on ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from torch import nn

from deeprecsys.core.errors import InputError
from deeprecsys.engine.dense.graph import OWNER, SCORES
from deeprecsys.engine.dense.graphs import block_items, merges
from deeprecsys.engine.dense.graphset import GraphSet
from deeprecsys.engine.dense.protocol import Arrays
from deeprecsys.engine.dense.stage import BufferedStage, Span
from deeprecsys.zoo.model import Model

_MOST_BINDINGS = 4096
"""Spans that are remembered; beyond, all are forgotten."""


class OrtStage(BufferedStage):
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
        super().__init__(model, slice_by_slice=not merges(network), block=block_items(network))
        self._sessions = GraphSet(model, network, lambda graph: session(graph, threads))
        self._bindings: dict[tuple[Span, tuple[str, ...]], Any] = {}

    def _moved(self) -> None:
        self._bindings = {}

    def _run(
        self, span: Span, owner: NDArray[np.int64] | None, out: NDArray[np.float32], instead: Arrays
    ) -> None:
        session = self._sessions.choose(span.items, owner is not None)
        key = (span, tuple(instead))
        binding = self._bindings.get(key)
        if binding is None:
            binding = self._bindings[key] = self._bind(session, span, instead)
        for name, array in instead.items():
            bind(binding, name, array)
        if owner is not None:
            bind(binding, OWNER, owner)
        binding.bind_output(SCORES, "cpu", 0, np.float32, out.shape, out.ctypes.data)
        session.run_with_iobinding(binding)

    def _bind(self, session: ort.InferenceSession, span: Span, instead: Arrays) -> Any:
        if len(self._bindings) >= _MOST_BINDINGS:
            self._bindings.clear()
        binding = session.io_binding()
        for name, array in self.rows(span).items():
            if name not in instead:
                bind(binding, name, array)
        return binding


def only_fp32(precision: str) -> None:
    """Raise InputError for any other precision."""
    if precision != "fp32":
        raise InputError(f"precision of dense route onnxruntime: expected fp32, got {precision}")


def bind(binding: Any, name: str, array: NDArray[Any]) -> None:
    """Let an input be read where an array lies."""
    binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def session(model: bytes, threads: int) -> ort.InferenceSession:
    """What runs an ONNX model; with one thread on the caller's."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Idle threads that spin would take the cores of other workers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if threads == 1 else "1")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

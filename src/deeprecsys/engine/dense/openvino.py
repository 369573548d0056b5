"""A dense stage on OpenVINO, whose CPU layers are oneDNN's."""

from __future__ import annotations

import openvino as ov
from torch import nn

from deeprecsys.core.errors import InputError
from deeprecsys.engine.dense.graphs import GraphSet, block_items, merges
from deeprecsys.engine.dense.stage import Arrays, BufferRows, DenseStage, Floats, SliceOfItem
from deeprecsys.zoo.model import Model
from deeprecsys.zoo.schema import SLICE_OF_ITEM

_HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoStage(DenseStage):
    """OpenVINO at fp32, or at bf16 where the CPU computes in it. The precision is always stated: left alone,
    OpenVINO takes bf16 wherever there is any. See `OrtStage` for the arguments.

    Raises:
        InputError: a precision that the CPU has no instructions for.
    """

    def __init__(self, model: Model, network: nn.Module, threads: int = 1, precision: str = "fp32") -> None:
        super().__init__(model, slice_by_slice=not merges(model, network), block=block_items(network))
        core = ov.Core()
        if precision not in _HINTS:
            raise InputError(f"precision of dense route openvino: expected fp32 or bf16, got {precision}")
        if precision not in self.precisions():
            raise InputError(
                "precision of dense route openvino: expected fp32: this CPU has no bf16 instructions"
            )
        config = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # the worker is pinned already
        }

        def load(graph: bytes) -> ov.InferRequest:
            return core.compile_model(core.read_model(graph), "CPU", config).create_infer_request()

        self._requests = GraphSet(model, network, load)

    @staticmethod
    def precisions() -> tuple[str, ...]:
        """What OpenVINO computes in on this CPU without emulation."""
        able = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return ("fp32", "bf16") if "BF16" in able else ("fp32",)

    def _run(self, at: BufferRows, slice_of_item: SliceOfItem, out: Floats, overrides: Arrays) -> None:
        request = self._requests.choose(at.items, slice_of_item is not None)
        for name, array in {**self.rows(at), **overrides}.items():
            request.set_tensor(name, ov.Tensor(array, shared_memory=True))
        if slice_of_item is not None:
            request.set_tensor(SLICE_OF_ITEM, ov.Tensor(slice_of_item, shared_memory=True))
        request.set_output_tensor(ov.Tensor(out, shared_memory=True))
        request.infer()

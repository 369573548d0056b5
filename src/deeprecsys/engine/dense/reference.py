"""The dense stage as eager torch runs it, behind the interface of the others: what they are held against."""

from __future__ import annotations

import torch
from torch import nn

from deeprecsys.core.errors import InputError
from deeprecsys.engine.dense.stage import Arrays, BufferRows, DenseStage, Floats, SliceOfItem
from deeprecsys.zoo.model import Model


class EagerStage(DenseStage):
    """The torch module itself, on views of the buffers. See `OrtStage` for the arguments."""

    def __init__(self, model: Model, network: nn.Module, threads: int = 1, precision: str = "fp32") -> None:
        if precision != "fp32":
            raise InputError(f"precision of dense route eager: expected fp32, got {precision}")
        super().__init__(model)
        torch.set_num_threads(threads)
        self._network = network

    @torch.inference_mode()
    def _run(self, at: BufferRows, slice_of_item: SliceOfItem, out: Floats, overrides: Arrays) -> None:
        views = self.layout.views({**self.rows(at), **overrides})
        x = {name: torch.from_numpy(view) for name, view in views.items()}
        scores = self._network(x, None if slice_of_item is None else torch.from_numpy(slice_of_item))
        torch.from_numpy(out).copy_(scores)

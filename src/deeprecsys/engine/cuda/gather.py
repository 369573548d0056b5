"""The gather of one block: all its inputs in one go, ids checked on the way."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from deeprecsys.engine.cuda.layout import DeviceBlock
from deeprecsys.engine.cuda.tables import DeviceTables
from deeprecsys.zoo.schema import Pooling

DeviceGather = Callable[[Tensor, Tensor, torch.dtype], Tensor]
"""From ids [inputs, rows, look-ups] int32 and a flag [1] int32, which is set where an id is outside its
table (another row is read in its place), to [inputs, rows, dim] pooled or [inputs, rows, look-ups, dim]."""


def gather_of(block: DeviceBlock, tables: DeviceTables) -> DeviceGather:
    """The fused kernel where there is a CUDA device and Triton's language, torch's kernels elsewhere."""
    if tables.by_dim[block.dim].device.type == "cuda" and triton_importable():
        from deeprecsys.engine.cuda.kernel import FusedGather

        return FusedGather(block, tables)
    return TorchGather(block, tables)


def triton_importable() -> bool:
    """Whether kernels in Triton's language can be compiled here."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


class TorchGather:
    """Two or three of torch's kernels over all tables."""

    def __init__(self, block: DeviceBlock, tables: DeviceTables) -> None:
        self._block = block
        self._table, first, rows = tables.of(block)
        self._first, self._last = first.view(-1, 1, 1), (rows - 1).view(-1, 1, 1)

    def __call__(self, ids: Tensor, flag: Tensor, dtype: torch.dtype) -> Tensor:
        inputs, rows, lookups = ids.shape
        wide = ids.long()
        clean = torch.minimum(wide.clamp(min=0), self._last)
        flag.logical_or_((clean != wide).any())
        places = clean + self._first
        if not self._block.pooled:
            return functional.embedding(places, self._table).to(dtype)
        if lookups == 1:
            return functional.embedding(places.squeeze(2), self._table).to(dtype)
        mode = "sum" if self._block.pooling is Pooling.SUM else "mean"
        found = functional.embedding_bag(places.view(-1, lookups), self._table, mode=mode)
        return found.view(inputs, rows, -1).to(dtype)

"""The fused gather in Triton's language: a program pools one bag of one input of a block.

Imported only where a CUDA device and the language are there.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from deeprecsys.engine.cuda.layout import DeviceBlock
from deeprecsys.engine.cuda.tables import DeviceTables
from deeprecsys.zoo.schema import Pooling

AT_ONCE = 32
"""Look-ups whose rows a program asks for together: enough loads in flight, few enough registers."""


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _pool(  # type: ignore[no-untyped-def] # the language has no types of its own
    ids, table, first, last, flag, out, bags, lookups, scale,
    dim: tl.constexpr, width: tl.constexpr, at_once: tl.constexpr,
):  # fmt: skip
    """Bag number `program` of [inputs, bags, lookups]: the sum of its rows, times `scale`."""
    program = tl.program_id(0).to(tl.int64)
    which = program // bags
    base = tl.load(first + which)
    most = tl.load(last + which)
    column = tl.arange(0, width)
    step = tl.arange(0, at_once)
    total = tl.zeros([width], dtype=tl.float32)
    wrong = tl.zeros([at_once], dtype=tl.int32)
    for start in range(0, lookups, at_once):
        here = start + step < lookups
        found = tl.load(ids + program * lookups + start + step, mask=here, other=0).to(tl.int64)
        clean = tl.minimum(tl.maximum(found, 0), most)
        wrong = wrong | (here & (clean != found)).to(tl.int32)
        place = (base + clean)[:, None] * dim + column[None, :]
        mask = here[:, None] & (column[None, :] < dim)
        total += tl.sum(tl.load(table + place, mask=mask, other=0.0).to(tl.float32), axis=0)
    tl.store(out + program * dim + column, (total * scale).to(out.dtype.element_ty), mask=column < dim)
    bad = tl.max(wrong, axis=0)
    tl.atomic_max(flag, bad, mask=bad > 0)


def variant(dim: int, lookups: int) -> dict[str, int]:
    """What the kernel is compiled for: rows of `dim` numbers, bags of `lookups` rows."""
    at_once, width = min(triton.next_power_of_2(lookups), AT_ONCE), triton.next_power_of_2(dim)
    warps = max(1, min(4, at_once * width // 256))
    return {"dim": dim, "width": width, "at_once": at_once, "num_warps": warps}


class FusedGather:
    """One launch for all inputs of a block, whatever their tables."""

    def __init__(self, block: DeviceBlock, tables: DeviceTables) -> None:
        self._block = block
        self._apart = not block.pooled
        self._table, self._first, rows = tables.of(block)
        self._last = rows - 1
        self._scale = 1.0 / block.lookups if block.pooling is Pooling.MEAN else 1.0

    def __call__(self, ids: Tensor, flag: Tensor, dtype: torch.dtype) -> Tensor:
        inputs, rows, lookups = ids.shape
        bags, each = (rows * lookups, 1) if self._apart else (rows, lookups)
        dim = self._block.dim
        shape = (inputs, rows, lookups, dim) if self._apart else (inputs, rows, dim)
        out = torch.empty(shape, dtype=dtype, device=ids.device)
        launch: Any = _pool[(inputs * bags,)]
        launch(ids, self._table, self._first, self._last, flag, out, bags, each, self._scale,
               **variant(dim, each))  # fmt: skip
        return out

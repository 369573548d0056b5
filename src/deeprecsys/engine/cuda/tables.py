"""All embedding tables on the device: those of one dimension in one array, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from deeprecsys.core.errors import InputError
from deeprecsys.engine.cuda.layout import DeviceBlock
from deeprecsys.zoo.schema import Schema

SHARE = 0.9
"""Share of the device's free memory that tables may take; the rest is for weights, batches and graphs."""
CHUNK_ROWS = 1 << 18


class DeviceTables:
    """The tables of a model on a device, read only.

    Args:
        tables: [rows, dim] float32 on the host.
        free_bytes: memory of the device that is free; None where nothing is to be checked.

    Raises:
        InputError: they do not fit.
    """

    def __init__(
        self,
        schema: Schema,
        tables: Mapping[str, NDArray[Any]],
        device: torch.device,
        dtype: torch.dtype,
        free_bytes: int | None,
    ) -> None:
        need = sum(t.rows * t.dim for t in schema.tables) * dtype.itemsize
        if free_bytes is not None and need > SHARE * free_bytes:
            raise InputError(
                f"tables: expected at most {SHARE * free_bytes / 2**30:.2f} GiB free on the device, "
                f"got {need / 2**30:.2f} GiB; a smaller --rows-scale makes them smaller"
            )
        self.first_row: dict[str, int] = {}
        self.rows = {t.name: t.rows for t in schema.tables}
        self.by_dim: dict[int, Tensor] = {}
        for dim in dict.fromkeys(t.dim for t in schema.tables):
            alike = [t for t in schema.tables if t.dim == dim]
            whole = torch.empty(sum(t.rows for t in alike), dim, dtype=dtype, device=device)
            at = 0
            for t in alike:
                self.first_row[t.name] = at
                for row in range(0, t.rows, CHUNK_ROWS):  # a conversion of the whole would double the memory
                    part = torch.from_numpy(tables[t.name][row : row + CHUNK_ROWS])
                    whole[at + row : at + row + len(part)].copy_(part)
                at += t.rows
            self.by_dim[dim] = whole

    def of(self, block: DeviceBlock) -> tuple[Tensor, Tensor, Tensor]:
        """A block's table, and for each input [inputs] int64 the first row and the number of rows."""
        whole = self.by_dim[block.dim]
        first = torch.tensor([self.first_row[t] for t in block.tables], device=whole.device)
        rows = torch.tensor([self.rows[t] for t in block.tables], device=whole.device)
        return whole, first, rows


def free_bytes(device: torch.device) -> int | None:
    """Memory of a CUDA device that is free."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None

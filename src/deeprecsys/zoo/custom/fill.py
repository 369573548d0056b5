"""A process that writes a model's weights into shared tables:
`python -m deeprecsys.zoo.custom.fill FD NAME TABLES_FD TABLES`.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError
from deeprecsys.zoo.custom import archive, weights
from deeprecsys.zoo.custom.model import CustomSpec, FileKind, parse
from deeprecsys.zoo.custom.module import user_module
from deeprecsys.zoo.custom.normal import read_onnx
from deeprecsys.zoo.custom.prepare import child

Tables = dict[str, tuple[int, int, int, str]]
"""By table name: its offset in the memory, rows, dim, and its key in the weights."""
_STEP = 1 << 16  # rows copied at once


def fill(name: str, fd: int, tables: Tables) -> None:
    """Write every table.

    Raises:
        InputError: a table is not there any more, or has another shape.
    """
    find = _source(parse(name))
    with mmap.mmap(fd, os.fstat(fd).st_size) as memory:
        for name_, (offset, rows, dim, key) in tables.items():
            found = find(name_, key, (rows, dim))
            out = np.ndarray((rows, dim), np.float32, memory, offset)
            for at in range(0, rows, _STEP):
                out[at : at + _STEP] = found[at : at + _STEP]
            del out  # or the map could not be closed


def _source(spec: CustomSpec) -> Callable[[str, str, tuple[int, int]], NDArray[Any]]:
    """A function from a table's name, key and shape to its weights."""
    if spec.kind is FileKind.ONNX:
        initialisers = read_onnx(spec.where).graph.initializers

        def from_graph(name: str, key: str, shape: tuple[int, int]) -> NDArray[Any]:
            held = initialisers[key].const_value if key in initialisers else None
            if held is None or math.prod(held.shape.numpy()) != math.prod(shape):
                raise InputError(f"model {spec.text}: table {name!r}: expected it unchanged, got another")
            try:
                return held.numpy().reshape(shape)
            except (OSError, ValueError) as e:  # external data that is not there, or outside the folder
                raise InputError(f"model {spec.text}: table {name!r}: expected its data, got: {e}") from e

        return from_graph
    if spec.kind is FileKind.EXPORTED:
        tensors, where = archive.load(spec.where).state_dict, f"model {spec.text}"
    elif not spec.weights:  # the user's module has its own
        tensors, where = user_module(spec).state_dict(), f"model {spec.text}"
    else:
        tensors, where = weights.read(spec.weights), f"--weights {spec.weights}"

    def from_tensors(name: str, key: str, shape: tuple[int, int]) -> NDArray[Any]:
        found = weights.table(tensors, where, name, key, shape).detach()
        values: NDArray[Any] = (found if found.dtype is torch.float32 else found.float()).numpy()
        return values

    return from_tensors


if __name__ == "__main__":

    def filled() -> bytes:
        fill(sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4]))
        return b""

    child(filled)

"""Gated recurrent layers on compiled code of our own: a step's product and its gates in the same registers.

A library runs a step as a product of a few microseconds and a dozen element-wise passes over its result. Here
a tile of 4 rows and three vectors, the same columns of all three gates, is multiplied, gated and written as
new state; nothing else is stored. Rows are done in blocks, all steps of one before the next, so that their
states stay in the first-level cache.

Matrices are packed in panels: for each vector of columns its r, u and n, side by side, row after row.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deeprecsys.engine import tiles, vectors
from deeprecsys.engine.dense.layout import aligned
from deeprecsys.engine.tiles import SCALES, add_row, blank_tile, gated, outer, store_tile
from deeprecsys.engine.vectors import word
from deeprecsys.jit import c_function, files, target_has

ROWS = 4
"""Rows of a tile. Buffers of rows have room for a multiple of it."""
BLOCK = 32
"""Rows whose states, before and after, are 16 KB of a first-level cache's 32."""

Floats = NDArray[np.float32]


def lanes() -> int:
    """float32 values of the widest vectors that code is compiled for."""
    return 16 if target_has("avx512f") else 8


def padded(rows: int) -> int:
    """Rows that a buffer for `rows` rows must have."""
    return -(-rows // ROWS) * ROWS


def packed(matrix: NDArray[Any], width: int) -> Floats:
    """A matrix [inputs, 3 hidden], gates r, u, n side by side, or a bias [3 hidden], as panels of `width`
    lanes: [hidden / width, inputs, 3, width]."""
    rows = matrix.reshape(-1, 3, matrix.shape[-1] // 3 // width, width)
    out = aligned((rows.shape[2], len(rows), 3, width))
    out[...] = rows.transpose(2, 0, 1, 3)
    return out


def _projection(inputs: int, outputs: int, width: int) -> Callable[..., None]:
    """rows x matrix + bias, all contiguous; columns are ordered as panels are."""
    panel, rows_, step = 3 * width * 4, ROWS, 4 * outputs

    def project(rows: int, left: int, stride: int, matrix: int, bias: int, out: int) -> None:
        for p in range(outputs // (3 * width)):
            right = matrix + p * inputs * panel
            for first in range(0, rows, rows_):
                tile, row = blank_tile(rows_, 3, width), left + first * stride
                for k in range(inputs):
                    tile = outer(tile, row + 4 * k, stride, right + k * panel)
                tile = add_row(tile, bias + p * panel)
                store_tile(tile, out + first * step + p * panel, step)

    return project


def _recurrence(hidden: int, width: int) -> Callable[..., None]:
    """All steps of some rows, block by block; the argument is a block of `Recurrence`'s words."""
    panel, rows_, row_size, most = 3 * width * 4, ROWS, 4 * hidden, BLOCK

    def recur(c: int) -> None:
        rows, steps, keep = word(c), word(c + 8), word(c + 16)
        x, sequence_of_row, amounts, matrix, bias = (
            word(c + 24), word(c + 32), word(c + 40), word(c + 48), word(c + 56),
        )  # fmt: skip
        zeros, scratch, result = word(c + 64), word(c + 72), word(c + 80)
        x_stride, amount_stride = steps * 3 * row_size, steps * 4
        new_stride = steps * row_size if keep != 0 else row_size
        for begin in range(0, rows, most):
            old, old_stride = zeros, 0
            for t in range(steps):
                if keep != 0:
                    new = result + begin * new_stride + t * row_size
                elif t == steps - 1:
                    new = result + begin * new_stride
                else:
                    new = scratch + t % 2 * most * row_size
                for p in range(hidden // width):
                    column, right = p * width * 4, matrix + p * hidden * panel
                    for r in range(0, min(most, rows - begin), rows_):
                        tile = blank_tile(rows_, 3, width)
                        state = old + r * old_stride
                        if t > 0:  # the first state is 0
                            for k in range(hidden):
                                tile = outer(tile, state + 4 * k, old_stride, right + k * panel)
                        gated(
                            tile, x + t * 3 * row_size + p * panel, x_stride,
                            sequence_of_row + 8 * (begin + r),
                            amounts + (begin + r) * amount_stride + 4 * t, amount_stride, bias + column,
                            state + column, old_stride, new + r * new_stride + column, new_stride,
                        )  # fmt: skip
                old, old_stride = new, new_stride

    return recur


@cache
def _project(inputs: int, outputs: int, width: int) -> Callable[..., None]:
    name = f"project_{inputs}_{outputs}_{width}"
    return c_function(_projection(inputs, outputs, width), name, 6, _SOURCES).ctypes  # type: ignore[no-any-return]


@cache
def _recur(hidden: int, width: int) -> Callable[[int], None]:
    return c_function(_recurrence(hidden, width), f"recur_{hidden}_{width}", 1, _SOURCES).ctypes  # type: ignore[no-any-return]


_SOURCES = (*files(vectors, tiles), __file__)


class Gates(NamedTuple):
    """A gated layer's weights, gates in the order r, u, n:

        r, u = sigmoid(W x + b + U h + b')    n = tanh(W x + b + r * (U h + b'))    h <- h + a u (n - h)

    Attributes:
        input, state: W [inputs, 3 hidden] and U [hidden, 3 hidden].
        input_bias, state_bias: b, b' [3 hidden].
    """

    input: Floats
    state: Floats
    input_bias: Floats
    state_bias: Floats


class Recurrence:
    """A gated recurrent layer over sequences of `steps`. One call at a time; it holds no lock (GIL).

    Args:
        keep: return every state, not the last alone.
    """

    def __init__(self, gates: Gates, steps: int, keep: bool) -> None:
        self._inputs, self._hidden = gates.input.shape[0], gates.state.shape[0]
        self._steps, self._keep, width = steps, keep, lanes()
        if not fits(self._hidden):
            raise ValueError(f"hidden: expected a multiple of {width}, got {self._hidden}")
        h = self._hidden
        scale = np.repeat(np.array(SCALES), h)
        # What is only added to W x is part of its bias.
        both = np.concatenate([gates.state_bias[: 2 * h], np.zeros(h, np.float32)]) + gates.input_bias
        self._matrices = [packed(m * scale, width) for m in (gates.input, both[None], gates.state)]
        self._new_bias = aligned((h,))
        self._new_bias[...] = gates.state_bias[2 * h :] * SCALES[2]
        self._zeros, self._scratch = aligned((h,)), aligned((2, BLOCK, h))
        self._project = _project(self._inputs, 3 * h, width)
        self._recur = _recur(h, width)
        self._words = np.zeros(11, np.int64)
        self._words[6:10] = [
            a.ctypes.data for a in (self._matrices[2], self._new_bias, self._zeros, self._scratch)
        ]
        self._address = self._words.ctypes.data

    def project(self, x: Floats, out: Floats) -> None:
        """What steps add of their inputs: x [padded(rows), inputs] -> out [padded(rows), 3 hidden]."""
        matrix, bias, _ = self._matrices
        self._project(
            len(x), x.ctypes.data, x.strides[0], matrix.ctypes.data, bias.ctypes.data, out.ctypes.data
        )

    def run(self, x: Floats, sequence_of_row: NDArray[np.int64], amounts: Floats, out: Floats) -> None:
        """Go through all steps.

        Args:
            x: [S, steps, 3 hidden] of `project`.
            sequence_of_row: [padded(rows)], each row's sequence in x.
            amounts: [padded(rows), steps], the factor a.
            out: [padded(rows), steps, hidden] with `keep`, else [padded(rows), hidden].
        """
        arrays = (x, sequence_of_row, amounts)
        self._words[:6] = [len(sequence_of_row), self._steps, self._keep, *(a.ctypes.data for a in arrays)]
        self._words[10] = out.ctypes.data
        self._recur(self._address)


def fits(hidden: int) -> bool:
    """Whether states of this width are whole vectors."""
    return hidden % lanes() == 0

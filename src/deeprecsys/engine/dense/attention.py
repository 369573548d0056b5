"""DIN's activation unit on compiled code of our own: product, activation and weighting in the same registers.

A library writes the hidden layer of all behaviours, `hidden` x T values per item, and reads it three more
times. Here a tile of it is activated, weighted and summed where it was made, and what is stored is one
weight per behaviour. For an item c, with the layer's matrix in blocks [B | C | D | P] (`zoo.networks.din`),

    W [b, c, b - c, b * c] + u = ((B + D) + P diag(c)) b + ((C - D) c + u),

so that its left matrix, `hidden` rows, is made once and multiplied with the behaviours, which are packed once
per slice; both stay in the first-level cache.

Behaviours are packed in panels of three vectors of them, column after column, the last of what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from deeprecsys.engine import tiles, vectors
from deeprecsys.engine.dense.layout import aligned
from deeprecsys.engine.dense.recurrent import lanes
from deeprecsys.engine.tiles import add_row, blank_tile, multiply_add, outer, store_tile, weigh
from deeprecsys.engine.vectors import word
from deeprecsys.jit import c_function, files
from deeprecsys.zoo.networks.interest import ActivationUnit

Floats = NDArray[np.float32]
PANEL = 3
"""Vectors of a panel. A tile is of as many rows as make twelve registers of sums."""
_SUMS = 12
_ROWS = {n: _SUMS // n for n in range(1, PANEL + 1)}
MOST_VECTORS = 12
"""The most vectors of an item's values, and of a hidden layer's: each is summed in registers."""


def fits(width: int, hidden: int) -> bool:
    """Whether items of `width` values are whole vectors, and few enough, as the hidden layer's must be."""
    most = MOST_VECTORS * lanes()
    return width % lanes() == 0 and width <= most and hidden <= most


class Attention:
    """Behaviours weighted by their relevance to each item, and summed. One call at a time; it holds no GIL.

    Args:
        steps: T, behaviours of a slice.
    """

    def __init__(self, unit: ActivationUnit, steps: int) -> None:
        hidden, width = len(unit.hidden.weight), unit.hidden.in_features // 4
        if not fits(width, hidden):
            raise ValueError(
                f"width and hidden: expected whole vectors of {lanes()}, got {width} and {hidden}"
            )
        self._width, self._steps, size = width, steps, lanes()
        rows = -(-hidden // _SUMS) * _SUMS  # of any tile; those beyond the layer's weigh nothing
        columns = -(-rows // size) * size
        b, c, d, p = (x.detach().numpy() for x in unit.hidden.weight.chunk(4, dim=1))
        self._both, self._each = _padded(b + d, (rows, width)), _padded(p, (rows, width))
        self._candidate = _padded((c - d).T, (width, columns))
        self._bias = _padded(unit.hidden.bias.detach().numpy(), (columns,))
        self._factors = _padded(unit.out.weight.detach().numpy()[0], (rows,))
        self._start = _padded(np.repeat(unit.out.bias.detach().numpy(), PANEL * size), (PANEL * size,))
        self._slope = _padded(unit.act.weight.detach().numpy(), (1,))
        self._left, self._level = aligned((rows, width)), aligned((columns,))
        self._whole, rest = divmod(-(-steps // size), PANEL)
        self._rest = rest * size
        self._weights = aligned(((PANEL * self._whole + rest) * size,))
        self._panels = aligned((1, width * len(self._weights)))
        self._attend = _compiled(width, rows, steps, size)
        weights = (self._both, self._each, self._candidate, self._bias)
        activation = (self._factors, self._start, self._slope)
        scratch = (self._left, self._level, self._weights)
        self._words = np.zeros(18, np.int64)
        self._words[8:18] = [a.ctypes.data for a in (*weights, *activation, *scratch)]
        self._address = self._words.ctypes.data

    def run(self, behaviours: Floats, items: Floats, slice_of_item: NDArray[np.int64], out: Floats) -> None:
        """Each item's interest.

        Args:
            behaviours, items, slice_of_item: [S, T, width], [n, width] and [n]; all contiguous.
            out: [n, width].
        """
        panels = self._pack(behaviours)
        arrays = (slice_of_item, items, behaviours, panels, out)
        strides = (behaviours.strides[0], panels.strides[0])
        self._words[:8] = [len(items), *(a.ctypes.data for a in arrays), *strides]
        self._attend(self._address)

    def _pack(self, behaviours: Floats) -> Floats:
        """Each slice's behaviours as panels, [S, all of them]; those beyond the last are zeros."""
        count, width = len(behaviours), self._width
        if count > len(self._panels):
            self._panels = aligned((count, self._panels.shape[1]))
        panels, group = self._panels[:count], PANEL * lanes()
        for begin in range(0, self._steps, group):
            some = behaviours[:, begin : begin + group].swapaxes(1, 2)
            columns = group if begin + group <= self._whole * group else self._rest
            panel = panels[:, begin * width : (begin + columns) * width].reshape(count, width, columns)
            panel[:, :, : some.shape[2]] = some
        return panels


def _padded(values: NDArray[np.float32], shape: tuple[int, ...]) -> Floats:
    """A copy with zeros up to a shape."""
    out = aligned(shape)
    out[tuple(map(slice, values.shape))] = values
    return out


def _attention(width: int, hidden: int, steps: int, size: int) -> Callable[[int], None]:
    """All items of a batch; the argument is a block of `Attention`'s words."""
    whole, rest = divmod(-(-steps // size), PANEL)
    few = rest or 1  # of no rest a panel that is never reached
    wide, rows, few_rows = PANEL, _ROWS[PANEL], _ROWS[few]
    vector, row, panel, last = 4 * size, 4 * width, 4 * PANEL * size, 4 * few * size
    parts, levels = width // size, -(-hidden // size)

    def attend(c: int) -> None:
        items, slices_of_items, item, behaviours, panels, out = (
            word(c), word(c + 8), word(c + 16), word(c + 24), word(c + 32), word(c + 40),
        )  # fmt: skip
        behaviours_stride, panels_stride = word(c + 48), word(c + 56)
        both, each, candidate, bias = word(c + 64), word(c + 72), word(c + 80), word(c + 88)
        factors, start, slope = word(c + 96), word(c + 104), word(c + 112)
        left, level, weights = word(c + 120), word(c + 128), word(c + 136)
        for n in range(items):
            slice_ = word(slices_of_items + 8 * n)
            own = item + n * row
            line = blank_tile(1, levels, size)
            for k in range(width):
                line = outer(line, own + 4 * k, 0, candidate + k * levels * vector)
            store_tile(add_row(line, bias), level, 0)
            for h in range(hidden):
                for j in range(parts):
                    at = h * row + j * vector
                    multiply_add(left + at, each + at, own + j * vector, both + at, size)
            right = panels + slice_ * panels_stride
            for p in range(whole):
                sums = blank_tile(1, wide, size)
                for h in range(0, hidden, rows):
                    tile = blank_tile(rows, wide, size)
                    for k in range(width):
                        tile = outer(tile, left + h * row + 4 * k, row, right + k * panel)
                    sums = weigh(sums, tile, level + 4 * h, factors + 4 * h, slope)
                store_tile(add_row(sums, start), weights + p * panel, 0)
                right += width * panel
            if rest != 0:
                ends = blank_tile(1, few, size)
                for h in range(0, hidden, few_rows):
                    tail = blank_tile(few_rows, few, size)
                    for k in range(width):
                        tail = outer(tail, left + h * row + 4 * k, row, right + k * last)
                    ends = weigh(ends, tail, level + 4 * h, factors + 4 * h, slope)
                store_tile(add_row(ends, start), weights + whole * panel, 0)
            interest = blank_tile(1, parts, size)
            behaviour = behaviours + slice_ * behaviours_stride
            for t in range(steps):
                interest = outer(interest, weights + 4 * t, 0, behaviour + t * row)
            store_tile(interest, out + n * row, 0)

    return attend


@cache
def _compiled(width: int, hidden: int, steps: int, size: int) -> Callable[[int], None]:
    name = f"attend_{width}_{hidden}_{steps}_{size}"
    return c_function(_attention(width, hidden, steps, size), name, 1, _SOURCES).ctypes  # type: ignore[no-any-return]


_SOURCES = (*files(vectors, tiles), __file__)

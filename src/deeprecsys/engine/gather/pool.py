"""The functions that pool a span's rows, one compiled per kind of input, called by address."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from deeprecsys.engine import vectors
from deeprecsys.engine.gather import control as f
from deeprecsys.engine.gather.control import ask, checked, open_next
from deeprecsys.engine.vectors import load_row, no_rows, plus, put, real, store_row, times, word
from deeprecsys.jit import c_function, files, inlined


class BagKind(NamedTuple):
    """What a pooling function is compiled for: all that stays the same for every row of an input.

    Attributes:
        form: of its rows, `fp32`, `bf16` or `int8`.
        spread: each looked-up row goes out by itself (concat, sequence), none are added.
        weighted: each row is multiplied by its weight first.
        width: bytes of an id.
        stride: bytes between rows.
        lines: the most cache lines that a row touches.
    """

    dim: int
    form: str
    spread: bool
    weighted: bool
    width: int
    stride: int
    lines: int


@inlined
def _pooled(total: Any, row: Any, weight: int, target: int, weighted: bool, spread: bool) -> Any:
    """The bag's sum with a looked-up row added, or the row itself written to `target`."""
    if weighted:
        row = times(row, real(weight))
    if spread:
        store_row(target, row)
        return total
    return plus(total, row)


def _pooling(
    dim: int, form: str, spread: bool, weighted: bool, width: int, stride: int, lines: int
) -> Callable[[int, int, int, int], None]:
    """A function that pools one span; see `BagKind`. Its constants are the arguments here."""

    def pool(c: int, d: int, span: int, out: int) -> None:
        lookups, offsets, mean = word(d + f.LOOKUPS), word(d + f.OFFSETS), word(d + f.MEAN)
        jagged, step, out_stride = offsets != 0, word(d + f.OUT_STEP), word(d + f.OUT_STRIDE)
        offsets += word(span + f.SPAN_ROW) * 8
        base, rows, reach = word(d + f.TABLE), word(d + f.TABLE_ROWS), word(d + f.ROW_REACH)
        last = word(c + f.INPUT_COUNT) * word(c + f.SLICE_COUNT)
        ids, weight = word(span + f.SPAN_IDS), word(d + f.WEIGHTS)
        if weighted:
            weight += (ids - word(d + f.POOL_START)) // width * 4
        at, end, more = word(c + f.AT), word(c + f.END), word(c + f.NEXT) < last
        here = word(c + f.CURRENT) == span
        # The look-ahead's table, once its cursor has left this span.
        base_, stride_, rows_ = word(c + f.BASE), word(c + f.STRIDE), word(c + f.ROWS)
        lines_, reach_, width_ = word(c + f.LINES), word(c + f.REACH), word(c + f.WIDTH)
        for bag in range(word(span + f.SPAN_BAGS)):
            left = lookups
            if jagged:
                left = word(offsets + 8 * bag + 8) - word(offsets + 8 * bag)
            missing, share = lookups - left, left
            total = no_rows(dim)
            target = out
            while left > 0:
                if at == end and more:  # the cursor goes on to the next span
                    open_next(c)
                    at, end, more = word(c + f.AT), word(c + f.END), word(c + f.NEXT) < last
                    here = False
                    base_, stride_, rows_ = word(c + f.BASE), word(c + f.STRIDE), word(c + f.ROWS)
                    lines_, reach_, width_ = word(c + f.LINES), word(c + f.REACH), word(c + f.WIDTH)
                asking = at != end
                run = left
                if here and asking:
                    # Both cursors are in this span: nothing but ids changes from row to row.
                    run = min(left, (end - at) // width)
                    for _ in range(run):
                        ask(c, at, width, base, stride, rows, lines, reach)
                        at += width
                        row = load_row(base + checked(ids, width, rows) * stride, dim, form)
                        ids += width
                        total = _pooled(total, row, weight, target, weighted, spread)
                        weight += 4
                        target += step
                else:
                    # The cursor is in another span, at the most as far as that goes, or at the end of all.
                    if asking:
                        run = min(left, (end - at) // width_)
                    for _ in range(run):
                        if asking:
                            ask(c, at, width_, base_, stride_, rows_, lines_, reach_)
                            at += width_
                        row = load_row(base + checked(ids, width, rows) * stride, dim, form)
                        ids += width
                        total = _pooled(total, row, weight, target, weighted, spread)
                        weight += 4
                        target += step
                left -= run
            if spread:  # a bag shorter than its room is filled up with zeros
                for _ in range(missing):
                    store_row(target, total)
                    target += step
            else:
                if mean != 0 and share > 1:
                    total = times(total, np.float32(1.0 / share))
                store_row(out, total)
            out += out_stride
        put(c + f.AT, at)

    return pool


@cache
def pooling(kind: BagKind) -> int:
    """The address of the function that pools such spans, compiled or found on disk."""
    how = ("spread" if kind.spread else "added") + ("_weighted" if kind.weighted else "")
    name = f"pool_{kind.form}_{kind.dim}_{how}_{kind.width}_{kind.stride}_{kind.lines}"
    sources = (*files(f, vectors), __file__)
    return c_function(_pooling(*kind), name, 4, sources).address  # type: ignore[no-any-return]

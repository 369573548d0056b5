"""The gather kernel: one compiled call that looks up and pools every sparse input of a batch.

Random rows of large tables are latency, not bandwidth: the kernel is fast because many rows are under way at
once. Two cursors run over the same ids, input by input, slice by slice. The first is DISTANCE rows ahead: it
checks each id and asks for its row's cache lines. The second pools the rows, which have arrived meanwhile, in
registers. They share nothing but their order, so that looking ahead crosses the ends of bags, slices and
tables alike. While both are in one span, the loop over its rows is as short as can be: what the look-ahead
misses, out-of-order execution finds only if many rows fit into its window.

The blocks and the first cursor are in `control`, the second cursor is in `pool`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from deeprecsys.engine import vectors
from deeprecsys.engine.gather import control as f
from deeprecsys.engine.gather.control import fault, step
from deeprecsys.engine.vectors import blank, call, copy, prefetch, put, word
from deeprecsys.jit import c_function, files, inner


@inner
def _ragged(d: int, row: int, bags: int) -> bool:
    """Whether offsets row … row + bags of a jagged input are unfit: falling, or outside its ids; with
    rows kept apart, also bags longer than there is room for."""
    offsets = word(d + f.OFFSETS) + 8 * row
    apart = word(d + f.OUT_STEP) != 0
    before = word(offsets)
    if before < 0:
        return True
    for k in range(1, bags + 1):
        after = word(offsets + 8 * k)
        if after < before or (apart and after - before > word(d + f.LOOKUPS)):
            return True
        before = after
    return before > word(d + f.ID_COUNT)


@inner
def _plan_span(c: int, d: int, span: int, s: int, first: int) -> None:
    """Fill in what slice block `s` reads of input `d`; what it may not read becomes a fault and -1 ids."""
    row, bags = first, 1
    if word(d + f.PER_QUERY) == 0:
        row, bags = first + word(s + f.SLICE_START), word(s + f.SLICE_ITEMS)
    put(span + f.SPAN_ROW, row)
    put(span + f.SPAN_BAGS, bags)
    put(span + f.SPAN_INPUT, d)
    put(span + f.SPAN_COUNT, -1)
    if row < 0 or row > word(d + f.POOL_ROWS) - bags:  # never a sum, which could wrap
        fault(c, span, f.BAD_ROWS, row, bags)
        return
    width = word(d + f.ID_SIZE)
    start = word(d + f.POOL_START)
    if width == 0:
        put(span + f.SPAN_COUNT, 0)
        return
    if word(d + f.OFFSETS) != 0:
        if _ragged(d, row, bags):
            fault(c, span, f.BAD_OFFSETS, row, bags)
            return
        begin = word(word(d + f.OFFSETS) + 8 * row)
        count = word(word(d + f.OFFSETS) + 8 * (row + bags)) - begin
    else:
        begin, count = row * word(d + f.LOOKUPS), bags * word(d + f.LOOKUPS)
    put(span + f.SPAN_IDS, start + begin * width)
    put(span + f.SPAN_COUNT, count)
    prefetch(start + begin * width)


@inner
def _plan(c: int) -> None:
    """Fill in all spans, and set the cursor before the first."""
    slices = word(c + f.SLICE_COUNT)
    for s in range(slices):
        put(word(c + f.FAULTS) + s * f.FAULT_SIZE + f.FAULT_INPUT, -1)
    put(c + f.FAULT_COUNT, 0)
    span = word(c + f.SPANS)
    for i in range(word(c + f.INPUT_COUNT)):
        d = word(c + f.INPUTS) + i * f.INPUT_SIZE
        s = word(c + f.SLICES)
        for _ in range(slices):
            _plan_span(c, d, span, s, word(s + f.SLICE_FIRST + 8 * i))
            span += f.SPAN_SIZE
            s += word(c + f.SLICE_SIZE)
    for field in (f.NEXT, f.CURRENT, f.AT, f.END):
        put(c + field, 0)


@inner
def _rows_without_ids(d: int, span: int, out: int) -> None:
    """Copy a dense input's rows; write zeros for a span that may not be read."""
    size, stride = word(d + f.ROW_SIZE), word(d + f.OUT_STRIDE)
    readable = word(span + f.SPAN_COUNT) == 0
    source = word(d + f.POOL_START) + word(span + f.SPAN_ROW) * size
    step = word(d + f.OUT_STEP)
    for k in range(word(span + f.SPAN_BAGS)):
        if readable:
            copy(out, source + k * size, size)
        elif step:
            for j in range(word(d + f.LOOKUPS)):
                blank(out + j * step, size)
        else:
            blank(out, size)
        out += stride


def _run(c: int) -> None:
    """Gather one batch."""
    _plan(c)
    for _ in range(word(c + f.DISTANCE)):
        step(c)
    slices = word(c + f.SLICE_COUNT)
    span = word(c + f.SPANS)
    for i in range(word(c + f.INPUT_COUNT)):
        d = word(c + f.INPUTS) + i * f.INPUT_SIZE
        for k in range(slices):
            row = k
            if word(d + f.PER_QUERY) == 0:
                row = word(word(c + f.SLICES) + k * word(c + f.SLICE_SIZE) + f.SLICE_OUT)
            out = word(d + f.OUT) + row * word(d + f.OUT_STRIDE)
            if word(d + f.FUNCTION) != 0 and word(span + f.SPAN_COUNT) >= 0:
                call(word(d + f.FUNCTION), c, d, span, out)
            else:
                _rows_without_ids(d, span, out)
            span += f.SPAN_SIZE


@cache
def run() -> Callable[[int], None]:
    """The function that gathers one batch, from the address of its call block. It holds no lock (GIL)."""
    sources = (*files(f, vectors), __file__)
    return c_function(_run, "gather", 1, sources).ctypes  # type: ignore[no-any-return]

"""The gather kernel: one compiled call that looks up and pools every sparse input of a batch.

Random rows of large tables are latency, not bandwidth: the kernel is fast because many rows are under way at
once. Two cursors run over the same ids, input by input, slice by slice. The first is DISTANCE rows ahead: it
checks each id and asks for its row's cache lines. The second pools the rows, which have arrived meanwhile, in
registers. They share nothing but their order, so that looking ahead crosses the ends of bags, slices and
tables alike. While both are in one segment, the loop over its rows is as short as can be: what the look-ahead
misses, out-of-order execution finds only if many rows fit into its window.

The words of the blocks are in `fields`; the first cursor is in `cursor`, the second in `pool`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from deeprecsys.engine import vectors
from deeprecsys.engine.gather import cursor
from deeprecsys.engine.gather import fields as f
from deeprecsys.engine.gather.cursor import fault, step
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
def _plan_segment(c: int, d: int, segment: int, s: int, first: int) -> None:
    """Fill in what slice block `s` reads of input `d`; what it may not read becomes a fault and -1 ids."""
    row, bags = first, 1
    if word(d + f.PER_QUERY) == 0:
        row, bags = first + word(s + f.SLICE_START), word(s + f.SLICE_ITEMS)
    put(segment + f.SEGMENT_ROW, row)
    put(segment + f.SEGMENT_BAGS, bags)
    put(segment + f.SEGMENT_INPUT, d)
    put(segment + f.SEGMENT_COUNT, -1)
    if row < 0 or row > word(d + f.POOL_ROWS) - bags:  # never a sum, which could wrap
        fault(c, segment, f.BAD_ROWS, row, bags)
        return
    width = word(d + f.ID_SIZE)
    start = word(d + f.POOL_START)
    if width == 0:
        put(segment + f.SEGMENT_COUNT, 0)
        return
    if word(d + f.OFFSETS) != 0:
        if _ragged(d, row, bags):
            fault(c, segment, f.BAD_OFFSETS, row, bags)
            return
        begin = word(word(d + f.OFFSETS) + 8 * row)
        count = word(word(d + f.OFFSETS) + 8 * (row + bags)) - begin
    else:
        begin, count = row * word(d + f.LOOKUPS), bags * word(d + f.LOOKUPS)
    put(segment + f.SEGMENT_IDS, start + begin * width)
    put(segment + f.SEGMENT_COUNT, count)
    prefetch(start + begin * width)


@inner
def _plan(c: int) -> None:
    """Fill in all segments, and set the cursor before the first."""
    slices = word(c + f.SLICE_COUNT)
    for s in range(slices):
        put(word(c + f.FAULTS) + s * f.FAULT_SIZE + f.FAULT_INPUT, -1)
    put(c + f.FAULT_COUNT, 0)
    segment = word(c + f.SEGMENTS)
    for i in range(word(c + f.INPUT_COUNT)):
        d = word(c + f.INPUTS) + i * f.INPUT_SIZE
        s = word(c + f.SLICES)
        for _ in range(slices):
            _plan_segment(c, d, segment, s, word(s + f.SLICE_FIRST + 8 * i))
            segment += f.SEGMENT_SIZE
            s += word(c + f.SLICE_SIZE)
    for field in (f.NEXT, f.CURRENT, f.AT, f.END):
        put(c + field, 0)


@inner
def _rows_without_ids(d: int, segment: int, out: int) -> None:
    """Copy a dense input's rows; write zeros for a segment that may not be read."""
    size, stride = word(d + f.ROW_SIZE), word(d + f.OUT_STRIDE)
    readable = word(segment + f.SEGMENT_COUNT) == 0
    source = word(d + f.POOL_START) + word(segment + f.SEGMENT_ROW) * size
    step = word(d + f.OUT_STEP)
    for k in range(word(segment + f.SEGMENT_BAGS)):
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
    segment = word(c + f.SEGMENTS)
    for i in range(word(c + f.INPUT_COUNT)):
        d = word(c + f.INPUTS) + i * f.INPUT_SIZE
        for k in range(slices):
            row = k
            if word(d + f.PER_QUERY) == 0:
                row = word(word(c + f.SLICES) + k * word(c + f.SLICE_SIZE) + f.SLICE_OUT)
            out = word(d + f.OUT) + row * word(d + f.OUT_STRIDE)
            if word(d + f.FUNCTION) != 0 and word(segment + f.SEGMENT_COUNT) >= 0:
                call(word(d + f.FUNCTION), c, d, segment, out)
            else:
                _rows_without_ids(d, segment, out)
            segment += f.SEGMENT_SIZE


@cache
def run() -> Callable[[int], None]:
    """The function that gathers one batch, from the address of its call block. It holds no lock (GIL)."""
    sources = (*files(f, vectors, cursor), __file__)
    return c_function(_run, "gather", 1, sources).ctypes  # type: ignore[no-any-return]

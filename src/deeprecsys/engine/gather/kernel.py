"""The gather kernel: one compiled call that looks up and pools every sparse input of a batch.

Random rows of large tables are latency, not bandwidth: the kernel is fast because many rows are under way at
once. Two cursors run over the same ids, input by input, slice by slice. The first is DISTANCE rows ahead: it
checks each id and asks for its row's cache lines. The second pools the rows, which have arrived meanwhile, in
registers. They share nothing but their order, so that looking ahead crosses the ends of bags, slices and
tables alike. While both are in one segment, the loop over its rows is as short as can be: what the look-ahead
misses, out-of-order execution finds only if many rows fit into its window.

The words of the blocks are in `fields`. A pooling function per `Kind` is compiled when a model first needs
it, and called by address.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import llvmlite
import numpy as np
from llvmlite import binding
from numba import cfunc, njit
from numba.core import config as _config
from numba.core import types

from deeprecsys.engine.gather import fields as f
from deeprecsys.engine.gather import vectors
from deeprecsys.engine.gather.vectors import (
    blank,
    call,
    copy,
    half_word,
    load_row,
    no_rows,
    outside,
    plus,
    prefetch,
    put,
    real,
    store_row,
    times,
    word,
)

config: Any = _config  # numba fills it in from the environment

F = TypeVar("F", bound=Callable[..., object])


def _inner(function: F) -> F:
    """A function that compiled code calls."""
    return cast(F, njit(function))


def _inlined(function: F) -> F:
    """The same, where a call would cost too much: rows in registers do not survive one."""
    return cast(F, njit(forceinline=True)(function))


@_inner
def _fault(c: int, segment: int, kind: int, place: int, value: int) -> None:
    """Note what is wrong with a slice, if it is the first thing that is."""
    index = (segment - word(c + f.SEGMENTS)) // f.SEGMENT_SIZE
    slices = word(c + f.SLICE_COUNT)
    fault = word(c + f.FAULTS) + index % slices * f.FAULT_SIZE
    if word(fault + f.FAULT_INPUT) >= 0:
        return
    put(fault + f.FAULT_INPUT, index // slices)
    put(fault + f.FAULT_KIND, kind)
    put(fault + f.FAULT_PLACE, place)
    put(fault + f.FAULT_VALUE, value)
    put(c + f.FAULT_COUNT, word(c + f.FAULT_COUNT) + 1)


@_inner
def _open_next(c: int) -> None:
    """Move the cursor, which is at the end of a segment, to the next that has ids; stay if there is none."""
    last = word(c + f.INPUT_COUNT) * word(c + f.SLICE_COUNT)
    k = word(c + f.NEXT)
    while k < last:
        segment = word(c + f.SEGMENTS) + k * f.SEGMENT_SIZE
        k += 1
        count = word(segment + f.SEGMENT_COUNT)
        if count > 0:
            d = word(segment + f.SEGMENT_INPUT)
            width = word(d + f.ID_SIZE)
            ids = word(segment + f.SEGMENT_IDS)
            put(c + f.CURRENT, segment)
            put(c + f.AT, ids)
            put(c + f.END, ids + count * width)
            put(c + f.BASE, word(d + f.TABLE))
            put(c + f.STRIDE, word(d + f.ROW_STRIDE))
            put(c + f.ROWS, word(d + f.TABLE_ROWS))
            put(c + f.LINES, word(d + f.ROW_LINES))
            put(c + f.REACH, word(d + f.ROW_REACH))
            put(c + f.WIDTH, width)
            break
    put(c + f.NEXT, k)


@_inner
def _bad_id(c: int, at: int, found: int) -> None:
    """The cursor's segment has an id that is out of range."""
    segment = word(c + f.CURRENT)
    place = (at - word(segment + f.SEGMENT_IDS)) // word(c + f.WIDTH)
    _fault(c, segment, f.BAD_ID, place, found)


@_inlined
def _read_id(at: int, width: int) -> int:
    """The id at an address; a negative one of 4 bytes becomes huge."""
    return half_word(at) if width == 4 else word(at)


@_inlined
def _checked(at: int, width: int, rows: int) -> int:
    """The id at an address, 0 if it is out of range. `_ask` told already; this one is what keeps reads
    within the table, whoever may write to the ids meanwhile."""
    found = _read_id(at, width)
    return 0 if outside(found, rows) else found


@_inlined
def _ask(c: int, at: int, width: int, base: int, stride: int, rows: int, lines: int, reach: int) -> None:
    """Check the id at an address and ask for the cache lines of its row."""
    found = _read_id(at, width)
    if outside(found, rows):
        _bad_id(c, at, found)
        return
    address = base + found * stride
    prefetch(address)
    if lines > 1:
        prefetch(address + reach)
        for k in range(1, lines - 1):
            prefetch(address + k * f.LINE)


@_inner
def _step(c: int) -> None:
    """Move the cursor by one row, into the next segment if need be, and ask for that row."""
    at = word(c + f.AT)
    if at == word(c + f.END):
        _open_next(c)
        at = word(c + f.AT)
        if at == word(c + f.END):
            return
    width = word(c + f.WIDTH)
    put(c + f.AT, at + width)
    base, stride, rows = word(c + f.BASE), word(c + f.STRIDE), word(c + f.ROWS)
    _ask(c, at, width, base, stride, rows, word(c + f.LINES), word(c + f.REACH))


class Kind(NamedTuple):
    """What a pooling function is compiled for: all that stays the same for every row of an input.

    Attributes:
        dim: of the table.
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


def _pooling(
    dim: int, form: str, spread: bool, weighted: bool, width: int, stride: int, lines: int
) -> Callable[[int, int, int, int], None]:
    """A function that pools one segment; see `Kind`. Its constants are the arguments here."""

    def pool(c: int, d: int, segment: int, out: int) -> None:
        lookups, offsets, mean = word(d + f.LOOKUPS), word(d + f.OFFSETS), word(d + f.MEAN)
        jagged, step, out_stride = offsets != 0, word(d + f.OUT_STEP), word(d + f.OUT_STRIDE)
        offsets += word(segment + f.SEGMENT_ROW) * 8
        base, rows, reach = word(d + f.TABLE), word(d + f.TABLE_ROWS), word(d + f.ROW_REACH)
        last = word(c + f.INPUT_COUNT) * word(c + f.SLICE_COUNT)
        ids, weight = word(segment + f.SEGMENT_IDS), word(d + f.WEIGHTS)
        if weighted:
            weight += (ids - word(d + f.POOL_START)) // width * 4
        at, end, more = word(c + f.AT), word(c + f.END), word(c + f.NEXT) < last
        here = word(c + f.CURRENT) == segment
        # The cursor's segment, once it has left this one.
        base_, stride_, rows_ = word(c + f.BASE), word(c + f.STRIDE), word(c + f.ROWS)
        lines_, reach_, width_ = word(c + f.LINES), word(c + f.REACH), word(c + f.WIDTH)
        for bag in range(word(segment + f.SEGMENT_BAGS)):
            left = lookups
            if jagged:
                left = word(offsets + 8 * bag + 8) - word(offsets + 8 * bag)
            missing, share = lookups - left, left
            total = no_rows(dim)
            target = out
            while left > 0:
                if at == end and more:
                    _open_next(c)
                    at, end, more = word(c + f.AT), word(c + f.END), word(c + f.NEXT) < last
                    here = False
                    base_, stride_, rows_ = word(c + f.BASE), word(c + f.STRIDE), word(c + f.ROWS)
                    lines_, reach_, width_ = word(c + f.LINES), word(c + f.REACH), word(c + f.WIDTH)
                asking = at != end
                run = left
                if here and asking:
                    # Both cursors are in this segment: nothing but ids changes from row to row.
                    run = min(left, (end - at) // width)
                    for _ in range(run):
                        _ask(c, at, width, base, stride, rows, lines, reach)
                        at += width
                        row = load_row(base + _checked(ids, width, rows) * stride, dim, form)
                        ids += width
                        if weighted:
                            row = times(row, real(weight))
                            weight += 4
                        if spread:
                            store_row(target, row)
                            target += step
                        else:
                            total = plus(total, row)
                else:
                    if asking:
                        run = min(left, (end - at) // width_)
                    for _ in range(run):
                        if asking:
                            _ask(c, at, width_, base_, stride_, rows_, lines_, reach_)
                            at += width_
                        row = load_row(base + _checked(ids, width, rows) * stride, dim, form)
                        ids += width
                        if weighted:
                            row = times(row, real(weight))
                            weight += 4
                        if spread:
                            store_row(target, row)
                            target += step
                        else:
                            total = plus(total, row)
                left -= run
            if spread:
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


@_inner
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


@_inner
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
        _fault(c, segment, f.BAD_ROWS, row, bags)
        return
    width = word(d + f.ID_SIZE)
    start = word(d + f.POOL_START)
    if width == 0:
        put(segment + f.SEGMENT_COUNT, 0)
        return
    if word(d + f.OFFSETS) != 0:
        if _ragged(d, row, bags):
            _fault(c, segment, f.BAD_OFFSETS, row, bags)
            return
        begin = word(word(d + f.OFFSETS) + 8 * row)
        count = word(word(d + f.OFFSETS) + 8 * (row + bags)) - begin
    else:
        begin, count = row * word(d + f.LOOKUPS), bags * word(d + f.LOOKUPS)
    put(segment + f.SEGMENT_IDS, start + begin * width)
    put(segment + f.SEGMENT_COUNT, count)
    prefetch(start + begin * width)


@_inner
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


@_inner
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
        _step(c)
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


def _compiled(function: Callable[..., None], name: str, arguments: int) -> Any:
    """A C function of so many int64, compiled, and kept on disk where there is a place for it.

    On disk each has a name of its own, in which stand this code and the host's processor: processes that
    compile at the same time, or share a home directory, then write the same bytes to the same file or
    others to another, and what older code left is never found.
    """
    function.__qualname__ = function.__name__ = f"{name}_{_identity():08x}"
    signature = types.void(*[types.int64] * arguments)
    try:
        return cfunc(signature, cache=True)(function)
    except (RuntimeError, OSError):  # no place to write to: compile in every process
        return cfunc(signature)(function)


@cache
def _identity() -> int:
    """Of this code, the compiler, and the processor that it is compiled for."""
    # A worker may be held to narrower vectors than the host has (`engine.isa`).
    cpu = config.CPU_NAME or binding.get_host_cpu_name()
    features = config.CPU_FEATURES or binding.get_host_cpu_features().flatten()
    host = f"{llvmlite.__version__} {cpu} {features}"
    sources = (Path(module.__file__ or "").read_bytes() for module in (f, vectors))
    code = b"".join((*sources, Path(__file__).read_bytes()))
    return zlib.crc32(code + host.encode())


@cache
def pooling(kind: Kind) -> int:
    """The address of the function that pools such segments, compiled or found on disk."""
    how = ("spread" if kind.spread else "added") + ("_weighted" if kind.weighted else "")
    name = f"pool_{kind.form}_{kind.dim}_{how}_{kind.width}_{kind.stride}_{kind.lines}"
    return _compiled(_pooling(*kind), name, 4).address  # type: ignore[no-any-return]


@cache
def run() -> Callable[[int], None]:
    """The function that gathers one batch, from the address of its call block. It holds no lock (GIL)."""
    return _compiled(_run, "gather", 1).ctypes  # type: ignore[no-any-return]

"""The cursor that runs ahead: it checks ids, asks for their rows' cache lines, and notes faults."""

from __future__ import annotations

from deeprecsys.engine.gather import fields as f
from deeprecsys.engine.vectors import half_word, outside, prefetch, put, word
from deeprecsys.jit import inlined, inner


@inner
def fault(c: int, segment: int, kind: int, place: int, value: int) -> None:
    """Note what is wrong with a slice, if it is the first thing that is."""
    index = (segment - word(c + f.SEGMENTS)) // f.SEGMENT_SIZE
    slices = word(c + f.SLICE_COUNT)
    block = word(c + f.FAULTS) + index % slices * f.FAULT_SIZE
    if word(block + f.FAULT_INPUT) >= 0:
        return
    put(block + f.FAULT_INPUT, index // slices)
    put(block + f.FAULT_KIND, kind)
    put(block + f.FAULT_PLACE, place)
    put(block + f.FAULT_VALUE, value)
    put(c + f.FAULT_COUNT, word(c + f.FAULT_COUNT) + 1)


@inner
def open_next(c: int) -> None:
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


@inner
def bad_id(c: int, at: int, found: int) -> None:
    """The cursor's segment has an id that is out of range."""
    segment = word(c + f.CURRENT)
    place = (at - word(segment + f.SEGMENT_IDS)) // word(c + f.WIDTH)
    fault(c, segment, f.BAD_ID, place, found)


@inlined
def _read_id(at: int, width: int) -> int:
    """The id at an address; a negative one of 4 bytes becomes huge."""
    return half_word(at) if width == 4 else word(at)


@inlined
def checked(at: int, width: int, rows: int) -> int:
    """The id at an address, 0 if it is out of range. `ask` told already; this one is what keeps reads
    within the table, whoever may write to the ids meanwhile."""
    found = _read_id(at, width)
    return 0 if outside(found, rows) else found


@inlined
def ask(c: int, at: int, width: int, base: int, stride: int, rows: int, lines: int, reach: int) -> None:
    """Check the id at an address and ask for the cache lines of its row."""
    found = _read_id(at, width)
    if outside(found, rows):
        bad_id(c, at, found)
        return
    address = base + found * stride
    prefetch(address)
    if lines > 1:
        prefetch(address + reach)
        for k in range(1, lines - 1):
            prefetch(address + k * f.LINE)


@inner
def step(c: int) -> None:
    """Move the cursor by one row, into the next segment if need be, and ask for that row."""
    at = word(c + f.AT)
    if at == word(c + f.END):
        open_next(c)
        at = word(c + f.AT)
        if at == word(c + f.END):
            return
    width = word(c + f.WIDTH)
    put(c + f.AT, at + width)
    base, stride, rows = word(c + f.BASE), word(c + f.STRIDE), word(c + f.ROWS)
    ask(c, at, width, base, stride, rows, word(c + f.LINES), word(c + f.REACH))

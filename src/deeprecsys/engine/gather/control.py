"""The control blocks of a gather call, which `plan` fills and `kernel` reads, and the cursor that runs ahead.

A block is int64 words; its fields are byte offsets, plain integers, since compiled code takes only those for
constants. The cursor checks ids, asks for their rows' cache lines, and notes faults.
"""

from __future__ import annotations

from collections.abc import Iterator

from deeprecsys.engine.vectors import half_word, outside, prefetch, put, word
from deeprecsys.jit import inlined, inner


def _words(count: int) -> Iterator[int]:
    return iter(range(0, 8 * count, 8))


# One call. The cursor is the place up to which rows have been asked for.
(
    INPUTS, INPUT_COUNT,  # address of the input blocks; how many
    SLICES, SLICE_COUNT, SLICE_SIZE,  # address of the slice blocks; how many; bytes of each
    SPANS,  # address of the span blocks, room for inputs x slices
    FAULTS, FAULT_COUNT,  # address of the fault blocks, one per slice; how many are set
    DISTANCE,  # how many rows to ask for ahead
    NEXT, CURRENT, AT, END,  # cursor: the next span; address of this one, of its next id and of their end
    BASE, STRIDE, ROWS, LINES, REACH, WIDTH,  # cursor: this span's table, and bytes of an id
) = _words(19)  # fmt: skip
CALL_SIZE = 8 * 19

# One input.
(
    POOL_START, POOL_ROWS,  # address of the pool's first row (of ids, or dense values); rows
    ID_SIZE, LOOKUPS,  # bytes of an id, 0 for a dense input; ids of a row (jagged, kept apart: at most)
    OFFSETS, ID_COUNT,  # address of the offsets of a jagged input, else 0; ids in its pool
    WEIGHTS,  # address of the weights, else 0
    PER_QUERY, MEAN,  # flags
    TABLE, TABLE_ROWS, ROW_STRIDE,  # address, rows, bytes between rows
    ROW_LINES, ROW_REACH,  # the most cache lines that a row touches; from its first byte to its last
    OUT, OUT_STRIDE, OUT_STEP,  # address of the output, bytes between its rows, and between a row's look-ups
    ROW_SIZE,  # bytes of an output row's contiguous part (dense: of the whole row)
    FUNCTION,  # address of the compiled function that pools a span, 0 for a dense input
) = _words(19)  # fmt: skip
INPUT_SIZE = 8 * 19

# One slice; the first pool row of each input follows.
SLICE_START, SLICE_ITEMS, SLICE_OUT, SLICE_FIRST = _words(4)

# One span: the ids, one after another, that one slice reads of one input.
(
    SPAN_IDS, SPAN_COUNT,  # address of the first id; ids, -1 where the span may not be read
    SPAN_ROW, SPAN_BAGS,  # the first pool row; rows, each of them one bag of ids
    SPAN_INPUT,  # address of the input's block
) = _words(5)  # fmt: skip
SPAN_SIZE = 8 * 5

# The first fault of a slice.
FAULT_INPUT, FAULT_KIND, FAULT_PLACE, FAULT_VALUE = _words(4)  # input: its index, or -1 for no fault
FAULT_SIZE = 8 * 4
BAD_ID, BAD_ROWS, BAD_OFFSETS = 0, 1, 2

LINE = 64
"""Bytes of a cache line."""


@inner
def fault(c: int, span: int, kind: int, place: int, value: int) -> None:
    """Note a slice's fault, a BAD_*, unless it has one already; `place` and `value` as in `gather._fault`."""
    index = (span - word(c + SPANS)) // SPAN_SIZE
    slices = word(c + SLICE_COUNT)
    block = word(c + FAULTS) + index % slices * FAULT_SIZE
    if word(block + FAULT_INPUT) >= 0:
        return
    put(block + FAULT_INPUT, index // slices)
    put(block + FAULT_KIND, kind)
    put(block + FAULT_PLACE, place)
    put(block + FAULT_VALUE, value)
    put(c + FAULT_COUNT, word(c + FAULT_COUNT) + 1)


@inner
def open_next(c: int) -> None:
    """Move the cursor, which is at the end of a span, to the next that has ids; stay if there is none."""
    last = word(c + INPUT_COUNT) * word(c + SLICE_COUNT)
    k = word(c + NEXT)
    while k < last:
        span = word(c + SPANS) + k * SPAN_SIZE
        k += 1
        count = word(span + SPAN_COUNT)
        if count > 0:
            d = word(span + SPAN_INPUT)
            width = word(d + ID_SIZE)
            ids = word(span + SPAN_IDS)
            put(c + CURRENT, span)
            put(c + AT, ids)
            put(c + END, ids + count * width)
            put(c + BASE, word(d + TABLE))
            put(c + STRIDE, word(d + ROW_STRIDE))
            put(c + ROWS, word(d + TABLE_ROWS))
            put(c + LINES, word(d + ROW_LINES))
            put(c + REACH, word(d + ROW_REACH))
            put(c + WIDTH, width)
            break
    put(c + NEXT, k)


@inner
def bad_id(c: int, at: int, found: int) -> None:
    """The cursor's span has an id that is out of range."""
    span = word(c + CURRENT)
    place = (at - word(span + SPAN_IDS)) // word(c + WIDTH)
    fault(c, span, BAD_ID, place, found)


@inlined
def _read_id(at: int, width: int) -> int:
    """The id at an address; a negative one of 4 bytes becomes huge."""
    return half_word(at) if width == 4 else word(at)


@inlined
def checked(at: int, width: int, rows: int) -> int:
    """The id at an address, 0 if it is out of range.

    `ask` has noted the fault already. This check keeps reads within the table even where another process
    writes to the ids meanwhile.
    """
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
            prefetch(address + k * LINE)


@inner
def step(c: int) -> None:
    """Move the cursor by one row, into the next span if need be, and ask for that row."""
    at = word(c + AT)
    if at == word(c + END):
        open_next(c)
        at = word(c + AT)
        if at == word(c + END):
            return
    width = word(c + WIDTH)
    put(c + AT, at + width)
    base, stride, rows = word(c + BASE), word(c + STRIDE), word(c + ROWS)
    ask(c, at, width, base, stride, rows, word(c + LINES), word(c + REACH))

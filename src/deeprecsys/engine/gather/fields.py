"""The words of the control blocks that `plan` fills and `kernel` reads: byte offsets of int64 fields.

Plain integers, since compiled code takes only those for constants.
"""

from __future__ import annotations

from collections.abc import Iterator


def _words(count: int) -> Iterator[int]:
    return iter(range(0, 8 * count, 8))


# One call. The cursor is the place up to which rows have been asked for.
(
    INPUTS, INPUT_COUNT,  # address of the input blocks; how many
    SLICES, SLICE_COUNT, SLICE_SIZE,  # address of the slice blocks; how many; bytes of each
    SEGMENTS,  # address of the segment blocks, room for inputs x slices
    FAULTS, FAULT_COUNT,  # address of the fault blocks, one per slice; how many are set
    RING, DISTANCE,  # address of the ring of row addresses; how many rows to ask for ahead
    NEXT, AT, END,  # cursor: the next segment; the next id and the end of the ids of this one
    BASE, STRIDE, ROWS, LINES, REACH, WIDTH,  # cursor: this segment's table, and bytes of an id
    HEAD, TAIL,  # rows put into the ring, and taken from it, since the call began
) = _words(21)  # fmt: skip
CALL_SIZE = 8 * 21

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
    FUNCTION,  # address of the compiled function that pools a segment, 0 for a dense input
) = _words(19)  # fmt: skip
INPUT_SIZE = 8 * 19

# One slice; the first pool row of each input follows.
SLICE_START, SLICE_ITEMS, SLICE_OUT, SLICE_FIRST = _words(4)

# One segment: what one slice reads of one input.
SEGMENT_IDS, SEGMENT_COUNT, SEGMENT_ROW, SEGMENT_BAGS, SEGMENT_INPUT = _words(5)
SEGMENT_SIZE = 8 * 5

# The first fault of a slice.
FAULT_INPUT, FAULT_KIND, FAULT_PLACE, FAULT_VALUE = _words(4)  # input: its index, or -1 for no fault
FAULT_SIZE = 8 * 4
BAD_ID, BAD_ROWS, BAD_OFFSETS = 0, 1, 2

LINE = 64
"""Bytes of a cache line."""

RING_ROWS = 256
"""Room in the ring of row addresses, a power of two; the distance is less."""

"""How a batch crosses to a worker and its result comes back: one mailbox per worker in shared memory.

A worker runs one batch at a time, so a mailbox holds one request and one reply. All fields are 64-bit
words. The writer fills the mailbox first and signals an eventfd afterwards; the system call orders the two
for the reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from deeprecsys.core.query import Slice

MAX_SLICES = 256
MAX_ERROR_BYTES = 480

# Word offsets within one mailbox.
_SEQ, _COUNT = 0, 1  # request: sequence number (0 = stop), number of slices (0 = drop the version)
_VERSION = 2  # request: id of the model version
_BEGUN = 3  # worker: sequence number of the request that it has begun
_READING = 4  # worker: it reads table rows
_DONE, _STARTED, _ENDED, _ERRORS = 8, 9, 10, 11  # reply: sequence done, worker's clock in ns, error count
STATE, PID = 12, 13  # worker: 0 starting, 1 ready, 2 could not start
_SLICES = 16
_SLICE_WORDS = 5  # score slot, features handle, first item, last item + 1, what it does of the user stage
_TEXT = _SLICES + MAX_SLICES * _SLICE_WORDS
_TEXT_WORDS = 64
_ERROR_AT = _TEXT + _TEXT_WORDS
WORDS = _ERROR_AT + MAX_SLICES
"""64-bit words of one mailbox."""

STARTING, READY, REFUSED = 0, 1, 2
GATE_WORDS = 8
"""Words behind all mailboxes, the first of which is the writer's for `row_gate`."""


def mail_bytes(boxes: int) -> int:
    """Bytes of the segment of some mailboxes."""
    return 8 * (boxes * WORDS + GATE_WORDS)


def writing_word(words: memoryview, boxes: int) -> memoryview:
    """The writer's word of that segment."""
    return words[boxes * WORDS : boxes * WORDS + 1]


COMPUTES, READS, RUNS = 0, 1, 2
"""A slice computes its query's side by itself, reads what the user stage gave, or is that stage."""


class SliceAddress(NamedTuple):
    """One slice as a worker sees it: where its query lies, and which of the query's items it holds."""

    slot: int
    features: int
    start: int
    stop: int
    stage: int = COMPUTES
    """What it does about its query's user stage."""


def stage_of(part: Slice) -> int:
    """What a slice does about its query's user stage."""
    return RUNS if part.start == part.stop else READS if part.staged else COMPUTES


class Reply(NamedTuple):
    """A reply: sequence number, begin and end of the batch on the worker's clock, the slices that failed."""

    seq: int
    started_ns: int
    ended_ns: int
    errors: tuple[tuple[int, str], ...]


class Mailbox:
    """One worker's mailbox over `words`, a writable view of at least `WORDS` 64-bit words."""

    __slots__ = ("_words",)

    def __init__(self, words: memoryview) -> None:
        self._words = words

    @property
    def reading(self) -> memoryview:
        """The worker's word for `row_gate`."""
        return self._words[_READING : _READING + 1]

    def clear(self) -> None:
        """Clear what an earlier worker left."""
        self._words[:_SLICES] = memoryview(bytes(8 * _SLICES)).cast("q")

    # The node's side.
    def post(self, seq: int, parts: Sequence[SliceAddress], version: int = 0) -> None:
        """Write a request. Handles are unsigned 64-bit, words are signed: the bits are kept."""
        w = self._words
        at = _SLICES
        for slot, features, start, stop, stage in parts:
            w[at] = slot
            w[at + 1] = features if features < 1 << 63 else features - (1 << 64)
            w[at + 2] = start
            w[at + 3] = stop
            w[at + 4] = stage
            at += _SLICE_WORDS
        w[_COUNT] = len(parts)
        w[_VERSION] = version
        w[_SEQ] = seq

    @property
    def begun(self) -> int:
        """Sequence number of the last request that the worker began."""
        return self._words[_BEGUN]

    @property
    def done(self) -> int:
        """Sequence number of the last request that was replied to."""
        return self._words[_DONE]

    def reply(self) -> Reply:
        w = self._words
        errors: tuple[tuple[int, str], ...] = ()
        if count := w[_ERRORS]:
            text = bytes(w[_TEXT : _TEXT + _TEXT_WORDS]).split(b"\0", 1)[0].decode("utf-8", "replace")
            errors = tuple((w[_ERROR_AT + i], text) for i in range(count))
        return Reply(w[_DONE], w[_STARTED], w[_ENDED], errors)

    # The worker's side.
    @property
    def requested(self) -> int:
        """Sequence number of the last request."""
        return self._words[_SEQ]

    @property
    def version(self) -> int:
        """Id of the model version that the last request is for."""
        return self._words[_VERSION]

    def request(self) -> tuple[int, list[SliceAddress]]:
        """Sequence number and slices of the last request, which counts as begun."""
        w = self._words
        w[_BEGUN] = w[_SEQ]
        ends = _SLICES + w[_COUNT] * _SLICE_WORDS
        mask = (1 << 64) - 1
        parts = [
            SliceAddress(w[i], w[i + 1] & mask, w[i + 2], w[i + 3], w[i + 4])
            for i in range(_SLICES, ends, _SLICE_WORDS)
        ]
        return w[_SEQ], parts

    def answer(self, seq: int, started_ns: int, ended_ns: int, errors: list[tuple[int, str]]) -> None:
        """Write a reply; of several errors' texts the first is kept."""
        w = self._words
        for i, (index, _) in enumerate(errors):
            w[_ERROR_AT + i] = index
        if errors:
            self.write_message(errors[0][1])
        w[_ERRORS] = len(errors)
        w[_STARTED] = started_ns
        w[_ENDED] = ended_ns
        w[_DONE] = seq

    def write_message(self, text: str) -> None:
        """Write a text for the node: an error, or what the engine computes in."""
        raw = text.encode()[:MAX_ERROR_BYTES].ljust(8 * _TEXT_WORDS, b"\0")
        self._words[_TEXT : _TEXT + _TEXT_WORDS] = memoryview(raw).cast("q")

    @property
    def message(self) -> str:
        """The text that the worker wrote last."""
        raw = bytes(self._words[_TEXT : _TEXT + _TEXT_WORDS])
        return raw.split(b"\0", 1)[0].decode("utf-8", "replace")

    @property
    def state(self) -> int:
        return self._words[STATE]

    @state.setter
    def state(self, value: int) -> None:
        self._words[STATE] = value

"""An engine that reads rows and checks each: rows of `row_writer` have one value, or they are torn.

A batch gathers its rows `READS` times over, and skips the dense stage. Counts go to files in the folder that the environment
variable `DEEPRECSYS_CHECKSUMS` names, one for each process.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from benchmarks.lib.row_writer import LEAST
from deeprecsys.engine import Assembly, SliceView
from deeprecsys.engine.gather import Gather
from deeprecsys.zoo.schema import Per

FOLDER = "DEEPRECSYS_CHECKSUMS"
READS = 20
_ROOM = 4096


class ChecksumEngine:
    """Scores are the number of torn rows. Rows of inputs that look up several are not checked."""

    holds_reading = True

    def __init__(self, assembly: Assembly) -> None:
        schema = assembly.model.schema
        self._reading = assembly.reading
        outputs = {i.name: np.zeros((_ROOM, *schema.row_shape(i)), np.float32) for i in schema.inputs}
        self._rows = [(outputs[i.name], i.per) for i in schema.sparse if i.lookups == 1]
        self._gather = Gather(schema, assembly.tables, assembly.inputs, outputs)
        folder = os.environ[FOLDER]
        self._counts = np.zeros(3, np.int64)  # rows read, of them written ones, torn ones
        self._file = os.open(os.path.join(folder, f"{os.getpid()}.{id(self)}"), os.O_CREAT | os.O_WRONLY)

    def score(self, slices: Sequence[SliceView]) -> None:
        items, torn = sum(s.stop - s.start for s in slices), 0
        for _ in range(READS):
            with self._reading:
                self._gather.gather(slices)
            for rows, per in self._rows:
                some = rows[: items if per is Per.ITEM else len(slices)]
                most, least = some.max(axis=1), some.min(axis=1)
                written = most >= LEAST
                torn += (found := int((written & (most != least)).sum()))
                self._counts += (len(some), int(written.sum()), found)
        os.pwrite(self._file, self._counts.tobytes(), 0)
        for s in slices:
            s.out[...] = torn


def counted(folder: str) -> tuple[int, int, int]:
    """Rows read, of them written ones, torn ones: of all processes."""
    files = [np.fromfile(entry.path, np.int64) for entry in os.scandir(folder)]
    total = sum((f for f in files if len(f) == 3), np.zeros(3, np.int64))
    return int(total[0]), int(total[1]), int(total[2])

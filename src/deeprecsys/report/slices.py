"""What happened to every slice of a trial: when it was on a worker, and on which."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.query import Batch

BatchTimes = tuple[Batch, float, float, float, float]
"""A batch; when it was posted, when the worker started and ended it, when its result came; seconds."""


@dataclass(frozen=True, slots=True)
class Slices:
    """Every slice that a worker finished, as arrays of one length; seconds from the trial's start.

    Attributes:
        query: index of its query in the run log.
        start, stop: its items, `stop` excluded.
        batch: number of the batch that held it.
        device, worker: where it ran.
        posted_s: when the dispatcher gave the batch to the worker: the end of its time in line.
        started_s, ended_s: when the worker began and ended the batch.
        heard_s: when the dispatcher received the result.
    """

    query: NDArray[np.int64]
    start: NDArray[np.int32]
    stop: NDArray[np.int32]
    batch: NDArray[np.int64]
    device: NDArray[np.str_]
    worker: NDArray[np.int32]
    posted_s: NDArray[np.float64]
    started_s: NDArray[np.float64]
    ended_s: NDArray[np.float64]
    heard_s: NDArray[np.float64]

    @classmethod
    def of(cls, batches: Iterable[BatchTimes]) -> Slices:
        """The slices of recorded batches, in their order."""
        rows = [
            (s.query.id, s.start, s.stop, b.id, b.device, b.worker, *times)
            for b, *times in batches
            for s in b.slices
        ]
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(TYPES)
        return cls(*(np.array(c, dtype=t) for c, t in zip(columns, TYPES.values(), strict=True)))

    @property
    def items(self) -> NDArray[np.int32]:
        return self.stop - self.start

    def __len__(self) -> int:
        return len(self.query)


def columns_of(record: type) -> dict[str, type]:
    """The fields of a dataclass that are arrays, and the types of their items."""
    hints = get_type_hints(record).items()
    return {name: get_args(get_args(h)[1])[0] for name, h in hints if get_origin(h) is np.ndarray}


TYPES = columns_of(Slices)
"""The columns and their types."""

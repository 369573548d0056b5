"""Fills embedding tables with synthetic rows, fast and the same on every machine. No torch here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 18  # values per chunk: 1 MB, small enough that the second pass finds it in cache


def fill(table: NDArray[Any], seed: int | Sequence[int], threads: int | None = None) -> None:
    """Fill a whole C-contiguous float32 array with values uniform in [-1, 1), in place.

    Each chunk has its own generator, seeded by `seed` and the chunk's position: the result does not
    depend on the number of threads. Values are of order 1 on purpose: with tiny ones a wrong row
    would hide inside a tolerance.

    Args:
        table: any shape.
        seed: an integer or a sequence of them, such as (seed, table index).
        threads: at most so many; by default one per core that this process may use.

    Raises:
        ValueError: the array is not C-contiguous float32.
    """
    if table.dtype != np.float32 or not table.flags.c_contiguous:
        raise ValueError(f"table: expected a C-contiguous float32 array, got {table.dtype}")
    flat = table.reshape(-1)
    starts = range(0, flat.size, CHUNK)
    words = [seed] if isinstance(seed, int) else list(seed)
    entropy = [len(words), *words]  # numpy pads with zeros: without its length, (4, 0) would be (4,)

    def fill_chunk(index: int) -> None:
        chunk = flat[index * CHUNK : (index + 1) * CHUNK]
        rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(entropy, spawn_key=(index,))))
        rng.random(dtype=np.float32, out=chunk)
        chunk *= 2.0
        chunk -= 1.0

    workers = min(threads or len(os.sched_getaffinity(0)), len(starts))
    if workers <= 1:
        for index in range(len(starts)):
            fill_chunk(index)
        return
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(fill_chunk, range(len(starts))):
            pass

"""Fills embedding tables with synthetic rows, fast and the same on every machine. No torch here."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.zoo.rows import RowFormat, convert, format_of
from deeprecsys.zoo.schema import Table

CHUNK = 1 << 18  # values per chunk: 1 MB, small enough that the second pass finds it in cache


def fill(table: NDArray[Any], seed: int | Sequence[int], threads: int | None = None) -> None:
    """Fill a whole C-contiguous float32 array with values uniform in [-1, 1), in place.

    Each chunk has its own generator, seeded by `seed` and the chunk's position: the result does not
    depend on the number of threads. Values are of order 1 on purpose: with tiny ones a wrong row
    would hide inside a tolerance.

    Args:
        table: any shape.
        seed: an integer or a sequence of them, such as (seed, table index).
        threads: the most threads; by default one per core that this process may use.

    Raises:
        ValueError: the array is not C-contiguous float32.
    """
    if table.dtype != np.float32 or not table.flags.c_contiguous:
        raise ValueError(f"table: expected a C-contiguous float32 array, got {table.dtype}")
    flat = table.reshape(-1)
    chunks = -(-flat.size // CHUNK)
    entropy = _entropy(seed)

    def fill_chunk(index: int) -> None:
        _draw(flat[index * CHUNK : (index + 1) * CHUNK], entropy, index)

    _share(chunks, fill_chunk, threads)


def fill_rows(
    table: Table, rows: NDArray[Any], seed: int | Sequence[int], threads: int | None = None
) -> None:
    """Fill a table in any row format with what `fill` writes at float32, converted on the way.

    No float32 copy of the whole ever exists: each thread holds a piece of a few chunks.

    Args:
        table: its rows and dimension.
        rows: of one of the table's formats, C-contiguous; see `rows`.
        seed, threads: as for `fill`.

    Raises:
        InputError: the array is of none of the table's formats.
    """
    form = format_of(table, rows)
    if form is RowFormat.FP32:
        fill(rows, seed, threads)
        return
    entropy = _entropy(seed)
    chunks = table.dim // gcd(table.dim, CHUNK)  # the fewest that are a whole number of rows
    piece_rows = chunks * CHUNK // table.dim

    def fill_piece(index: int) -> None:
        into = rows[index * piece_rows : (index + 1) * piece_rows]
        values = np.empty((len(into), table.dim), np.float32)
        flat = values.reshape(-1)
        for k in range(-(-flat.size // CHUNK)):
            _draw(flat[k * CHUNK : (k + 1) * CHUNK], entropy, index * chunks + k)
        convert(values, form, into)

    _share(-(-table.rows // piece_rows), fill_piece, threads)


def _entropy(seed: int | Sequence[int]) -> list[int]:
    words = [seed] if isinstance(seed, int) else list(seed)
    return [len(words), *words]  # numpy pads with zeros: without its length, (4, 0) would be (4,)


def _draw(out: NDArray[np.float32], entropy: list[int], index: int) -> None:
    """The values of chunk `index`."""
    rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(entropy, spawn_key=(index,))))
    rng.random(dtype=np.float32, out=out)
    out *= 2.0
    out -= 1.0


def _share(count: int, work: Callable[[int], None], threads: int | None) -> None:
    """Call `work(0)` … `work(count - 1)` on a few threads."""
    workers = min(threads or len(os.sched_getaffinity(0)), count)
    if workers <= 1:
        for index in range(count):
            work(index)
        return
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(work, range(count)):
            pass

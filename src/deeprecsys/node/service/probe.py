"""Warms a version of weights up before it takes queries, and judges it by a few queries' scores and times."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError
from deeprecsys.node.service.hosted_model import HostedModel, ModelVersion
from deeprecsys.zoo.schema import Per, Schema, SparseInput, put_ids

ROUNDS = 3
"""Batches per worker by which versions are compared."""
SLOWER = 2.0
"""How many times its time before, and by the profile, the fastest batch of a version may take."""
MOST_ITEMS = 256
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2, "int8": 5e-2}
"""Of scores, by precision, as a share: what the order of sums changes, less than what other items would."""

Inputs = Mapping[str, NDArray[Any]]


class Probed(NamedTuple):
    """The scores of a query, float32 [items, outputs], and the time in which workers ran it."""

    scores: NDArray[np.float32]
    compute_s: float


Score = Callable[[ModelVersion, int, Inputs], Awaitable[Probed]]
"""Scores a query of a number of items on a version."""


async def check_version(s: HostedModel, new: ModelVersion, score: Score, workers: int) -> None:
    """Have all workers score with a version, and see that its scores and times are as they should be.

    Raises:
        InputError: scores that are not finite, or that depend on the other items of a query; batches that
            take much longer than those of the version that serves, and than the profile's.
    """
    size = s.policy.batch_size or MOST_ITEMS
    items = min(size, s.config.max_items, MOST_ITEMS)
    while items > 1 and not _fits(s, items):
        items //= 2
    inputs = random_inputs(s.arena.schema, items)
    fastest = {}
    for version in [v for v in (s.current, new) if v.ready or v is new]:
        times = []
        for _ in range(ROUNDS):
            found = await asyncio.gather(*(score(version, items, inputs) for _ in range(workers)))
            times += [probed.compute_s for probed in found]
        fastest[version.id], whole = min(times), found[0].scores
    where = f"version {new.version} of {s.name}"
    if s.config.finite and not np.isfinite(whole).all():
        count = int(np.count_nonzero(~np.isfinite(whole)))
        raise InputError(
            f"{where}: expected finite scores, got {count} that are infinite or NaN, of {whole.size}"
        )
    if s.config.split and items > 1:
        await _check_independence(s, new, score, inputs, whole, where)
    if s.current.ready:
        usual_s = max(fastest[s.current.id], s.config.profile.seconds(items, workers))
        if fastest[new.id] > SLOWER * usual_s:
            raise InputError(
                f"{where}: expected batches of {items} items within {1e3 * SLOWER * usual_s:.3g} ms, "
                f"{SLOWER:g} times those of version {s.current.version}, got {1e3 * fastest[new.id]:.3g} ms"
            )


async def _check_independence(
    s: HostedModel, new: ModelVersion, score: Score, inputs: Inputs, whole: NDArray[Any], where: str
) -> None:
    """Raise InputError if a query's scores are others when it is cut."""
    half = len(whole) // 2
    schema = s.arena.schema
    each = {i.name for i in schema.inputs if i.per is Per.ITEM}
    parts = []
    for some in (slice(0, half), slice(half, len(whole))):
        part = {name: rows[some] if name in each else rows for name, rows in inputs.items()}
        parts.append((await score(new, some.stop - some.start, part)).scores)
    allowed = TOLERANCE[s.config.precision]
    if not np.allclose(np.concatenate(parts), whole, rtol=allowed, atol=allowed, equal_nan=True):
        raise InputError(
            f"{where}: expected scores that do not depend on a query's other items, got some that do"
        )


def _fits(s: HostedModel, items: int) -> bool:
    """Whether the model's memory has room for a query of as many items, with the most ids in jagged rows."""
    jagged = {i.name: items * i.lookups for i in s.arena.schema.jagged if i.per is Per.ITEM}
    return s.rows_of(items, jagged) <= len(s.arena.scores)


def random_inputs(schema: Schema, items: int) -> dict[str, NDArray[Any]]:
    """Features of one query, by input name; the same each time."""
    rng = np.random.default_rng(0)
    found: dict[str, NDArray[Any]] = {}
    for i in schema.inputs:
        rows = items if i.per is Per.ITEM else 1
        if isinstance(i, SparseInput):
            found[i.name] = rng.integers(0, schema.table(i.table).rows, (rows, i.lookups), dtype=np.int32)
        else:
            found[i.name] = rng.standard_normal((rows, i.width), dtype=np.float32)
            put_ids(i.ids, found[i.name], lambda count, wanted: rng.integers(count, size=wanted))
    return found

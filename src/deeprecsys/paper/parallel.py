"""The figures on all cores: worker processes compute what each needs, model by model."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from deeprecsys.paper import sensitivity, uncertainty
from deeprecsys.paper.published import MODELS
from deeprecsys.paper.recipes import ASKS, RECIPES
from deeprecsys.paper.result import Result
from deeprecsys.paper.study import Memo, Study

K = TypeVar("K")
V = TypeVar("V")
FigureProgress = Callable[[float, str], None]
"""Called with the share of a step that is done, in [0, 1], and what is being done."""


class FigureRunner:
    """Worker processes, each with a study of its own, that complete the memo of one study.

    Args:
        study: whose memo is completed.
        pool: of the workers; without one, everything is left to the figures.
    """

    def __init__(self, study: Study, pool: ProcessPoolExecutor | None) -> None:
        self._study, self._pool = study, pool

    def prepare(self, figure: int, progress: FigureProgress) -> None:
        """Compute all that a figure needs."""
        if self._pool is None or figure not in ASKS:
            return
        memo = self._study.memo
        known = dict(memo)  # a pool's thread sends it while `memo` grows
        jobs = {self._pool.submit(_ask, figure, m, known): m for m in MODELS}
        for found in _done(jobs, progress):
            memo.update(found)

    def make(self, figure: int, progress: FigureProgress) -> tuple[Result, float]:
        """A figure, and the seconds that it took."""
        start = time.monotonic()
        self.prepare(figure, progress)
        return RECIPES[figure](self._study), time.monotonic() - start

    def vary(self, quick: bool, progress: FigureProgress) -> dict[str, sensitivity.Varied]:
        """The sensitivity to each part, in the order of the variants."""
        return self._each(sensitivity.one, sensitivity.names(quick), progress)

    def draw(self, quick: bool, progress: FigureProgress) -> list[uncertainty.Drawn]:
        """The draws of how far off platforms may be, in order."""
        return list(self._each(uncertainty.one, uncertainty.numbers(quick), progress).values())

    def _each(self, make: Callable[[K], V], keys: Sequence[K], progress: FigureProgress) -> dict[K, V]:
        """What a function makes of each key, in their order."""
        if self._pool is None:
            found = {}
            for i, key in enumerate(keys):
                progress(i / len(keys), str(key))
                found[key] = make(key)
            return found
        jobs = {self._pool.submit(_made, make, key): str(key) for key in keys}
        done = dict(_done(jobs, progress))
        return {key: done[key] for key in keys}


@contextmanager
def parallel(study: Study, workers: int | None = None) -> Iterator[FigureRunner]:
    """Workers for a study: one for each core, at most one for each model. One alone is this process."""
    count = min(workers or len(os.sched_getaffinity(0)), len(MODELS))
    if count == 1:
        yield FigureRunner(study, None)
        return
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    pool = ProcessPoolExecutor(count, spawn, _begin, (study.quick, study.profiles))
    try:
        yield FigureRunner(study, pool)
    finally:
        pool.shutdown(cancel_futures=True)


def _done(jobs: Mapping[Future[Any], str], progress: FigureProgress) -> Iterator[Any]:
    for i, job in enumerate(as_completed(jobs)):
        progress(i / len(jobs), jobs[job])
        yield job.result()


_own: list[Study] = []
"""A worker's study."""


def _begin(quick: bool, profiles: Path | None) -> None:
    _own.append(Study(quick=quick, profiles=profiles))


def _ask(figure: int, model: str, memo: Memo) -> Memo:
    (study,) = _own
    study.memo.update(memo)
    ASKS[figure](study, model)
    return {asked: found for asked, found in study.memo.items() if asked not in memo}


def _made(make: Callable[[K], V], key: K) -> tuple[K, V]:
    return key, make(key)

"""Progress bars on stderr, where it is a terminal. Drawing one costs the dispatcher some 50 µs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

from numpy.typing import NDArray
from tqdm import tqdm

from deeprecsys.core.query import Query


class Bar:
    """One line that says what is going on and how far it is. Silent where stderr is no terminal."""

    def __init__(self, label: str) -> None:
        self._bar: tqdm[Any] = tqdm(
            total=1.0,
            desc=label,
            file=sys.stderr,
            disable=None,  # tqdm's own test for a terminal
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc} |{bar:24}| {percentage:3.0f}% {elapsed} {postfix}",
            mininterval=0.2,
        )

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def set(self, share: float, note: str = "") -> None:
        """Move to a share in [0, 1]; `note` stands behind the bar."""
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(max(0.0, min(1.0, share) - self._bar.n))

    def said(self, what: str, share: float) -> None:
        """The same, in the order in which a node reports its start."""
        self.set(share, what)


class TickHooks:
    """Hooks of a trial that move a bar and may keep what they hear."""

    def __init__(self, tick: Callable[[float], None]) -> None:
        self._tick = tick

    def tick(self, share: float) -> None:
        self._tick(share)

    def scores(self, query: Query, scores: NDArray[Any]) -> None:
        """Scores are of no interest to a load test."""

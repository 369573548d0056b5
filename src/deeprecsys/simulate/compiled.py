"""How the loops of the fast path are compiled. Loads numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """`function`, compiled; the code is kept on disk where there is a place for it."""
    try:
        return cast(F, njit(cache=True, nogil=True)(function))
    except RuntimeError:  # a read-only installation and no home directory: compile in every process
        return cast(F, njit(nogil=True)(function))

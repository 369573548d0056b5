"""Errors that a user can cause, and their messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: one line that names the field, what was expected and what was given."""


class TargetUnreachableError(RuntimeError):
    """No operating point meets the target; the message says the best latency that was possible.

    Attributes:
        best_latency_s: that latency, at the target's quantile, seconds; nan if unknown.
    """

    def __init__(self, message: str, best_latency_s: float = float("nan")) -> None:
        super().__init__(message)
        self.best_latency_s = best_latency_s


class TrialsVoidError(RuntimeError):
    """The load source was late in repeated trials: the machine cannot offer this load."""


class NotConfirmedError(RuntimeError):
    """The result of a search did not hold when it was run again."""


class NodeError(RuntimeError):
    """The node must stop: a worker could not start, or died repeatedly."""


def shown(value: object, most: int = 80) -> str:
    """A value for a message: its first `most` characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits; too deep
        text = f"a {type(value).__name__} that cannot be printed"
    return text if len(text) <= most else f"{text[: most - 1]}…"


def unknown(kind: str, name: str, valid: Iterable[str]) -> InputError:
    """An unknown name of some kind: the error names the nearest valid one, then all of them."""
    names = sorted(valid)
    near = difflib.get_close_matches(name[:80].lower(), names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InputError(f"unknown {kind} {shown(name)}: {hint}valid: {', '.join(names)}")


def positive(field: str, value: float) -> float:
    """`value`, if it is a finite number above 0.

    Raises:
        InputError: otherwise.
    """
    if not 0 < value < float("inf"):
        raise InputError(f"{field}: expected a number above 0, got {value}")
    return value


def not_negative(field: str, value: float) -> float:
    """`value`, if it is a finite number of at least 0.

    Raises:
        InputError: otherwise.
    """
    if not 0 <= value < float("inf"):
        raise InputError(f"{field}: expected a number of at least 0, got {value}")
    return value


def at_least(least: int, field: str, value: int) -> int:
    """`value`, if it is a whole number of at least `least` items.

    Raises:
        InputError: otherwise.
    """
    if value < least:
        raise InputError(f"{field}: expected at least {least} item{'' if least == 1 else 's'}, got {value}")
    return value


def at_most(most: float, field: str, value: float, why: str) -> float:
    """`value`, if it is no more than `most`.

    Args:
        why: what sets the bound.

    Raises:
        InputError: otherwise.
    """
    if value > most:
        got = f"{value:.12g}" if value < 1e300 else shown(value)  # a larger whole number is no float
        raise InputError(f"{field}: expected at most {most:.12g} ({why}), got {got}")
    return value

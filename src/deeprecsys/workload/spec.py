"""Texts of the form `NAME[:ARG,ARG…]`, by which people name arrivals, sizes and localities."""

from __future__ import annotations

import math
from collections.abc import Mapping

from deeprecsys.core.errors import InputError, shown


def split(text: str) -> tuple[str, list[str]]:
    """`"normal:167,34"` → `("normal", ["167", "34"])`; no arguments → an empty list."""
    name, colon, args = text.strip().partition(":")
    return name.strip().lower(), [a.strip() for a in args.split(",")] if colon else []


def numbers(what: str, args: list[str], defaults: Mapping[str, float | None]) -> list[float]:
    """The numbers given in `args`, filled up with the defaults; a default of None must be given.

    Args:
        what: who asks, for the error: `"arrivals bursts"`.
        args: as `split` returns them.
        defaults: argument names in their order, with their default values.

    Raises:
        InputError: too many or too few arguments, or one that is no finite number.
    """
    if len(args) > len(defaults):
        form = f"at most {len(defaults)} ({', '.join(defaults)})" if defaults else "none"
        raise InputError(f"{what}: arguments: expected {form}, got {shown(','.join(args))}")
    values = []
    for i, (name, default) in enumerate(defaults.items()):
        if i < len(args):
            values.append(number(f"{what}: {name}", args[i]))
        elif default is None:
            raise InputError(f"{what}: {name}: expected a number, got nothing")
        else:
            values.append(default)
    return values


def number(field: str, text: str) -> float:
    """The finite number that `text` spells.

    Raises:
        InputError: it spells none.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{field}: expected a number, got {shown(text)}")
    return value


def whole(field: str, value: float, least: int = 1) -> int:
    """`value` as an integer of at least `least`, and below 2**31.

    Raises:
        InputError: it is none.
    """
    if value != int(value) or not least <= value < 2**31:
        raise InputError(f"{field}: expected an integer of at least {least}, got {value:g}")
    return int(value)


def within(field: str, value: float, low: float, high: float) -> float:
    """`value`, if it lies in [low, high].

    Raises:
        InputError: it does not.
    """
    if not low <= value <= high:
        raise InputError(f"{field}: expected a number from {low:g} to {high:g}, got {value:g}")
    return value

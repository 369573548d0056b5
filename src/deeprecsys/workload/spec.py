"""Texts of the form `NAME[:ARG,ARG…]`, by which people name arrivals, sizes and localities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, Self

from deeprecsys.core.errors import InputError, shown


class Named:
    """A dataclass of numbers that the text `NAME[:ARG,ARG…]` stands for: its name in lower case, its fields.

    Attributes:
        ranges: least and greatest value of each field.
    """

    __slots__ = ()
    ranges: ClassVar[tuple[tuple[float, float], ...]] = ()

    @property
    def spec(self) -> str:
        name = type(self).__name__.lower()
        values = [f"{getattr(self, f.name):g}" for f in fields(self)]  # type: ignore[arg-type] # a dataclass
        return f"{name}:{','.join(values)}" if values else name

    @classmethod
    def of(cls, what: str, args: list[str]) -> Self:
        """What the arguments of a `what` say, as `split` returns them; InputError if they do not fit."""
        what = f"{what} {cls.__name__.lower()}"
        defaults: dict[str, Any] = {f.name: f.default for f in fields(cls)}  # type: ignore[arg-type]
        given = zip(defaults, numbers(what, args, defaults), cls.ranges, strict=True)
        return cls(*(within(f"{what}: {name}", value, *ends) for name, value, ends in given))


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
    """The finite number that `text` spells; InputError if it spells none."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{field}: expected a number, got {shown(text)}")
    return value


def whole(field: str, value: float) -> int:
    """`value` as an integer of at least 1, and below 2**31; InputError if it is none."""
    if value != int(value) or not 1 <= value < 2**31:
        raise InputError(f"{field}: expected an integer of at least 1, got {value:g}")
    return int(value)


def within(field: str, value: float, low: float, high: float) -> float:
    """`value`, if it lies in [low, high]; InputError if it does not."""
    if not low <= value <= high:
        raise InputError(f"{field}: expected a number from {low:g} to {high:g}, got {value:g}")
    return value

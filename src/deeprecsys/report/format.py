"""Numbers as text. None and nan are "–"; text such as "unavailable" is left as it is."""

from __future__ import annotations

import math
from typing import Any

from deeprecsys.machine.record import UNAVAILABLE

NONE = "–"
_SIZES = ("B", "KB", "MB", "GB", "TB")


def number(value: Any) -> float | None:
    """`value` as a float, infinity included; None where it is no number, or nan."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return None if math.isnan(value) else float(value)
    except OverflowError:  # an integer that is too large for any figure
        return None


def count(value: Any) -> str:
    """A whole number: 12,345."""
    return _finite(value, lambda x: f"{x:,.0f}")


def figure(value: Any) -> str:
    """Three significant digits, more where a whole number has them: 0.0412, 4.12, 41.2, 412, 4,123."""
    return _finite(value, _three)


def share(value: Any) -> str:
    """A share as a percentage; a share below 1 is never rounded to 100 %."""

    def percent(x: float) -> str:
        if x in (0.0, 1.0) or x > 1.01:
            return f"{100 * x:.0f} %"
        digits = 2 if x > 0.999 else 1
        shown = min(round(100 * x, digits), 100 - 10.0**-digits) if x < 1 else 100 * x
        return f"{shown:.{digits}f} %" if shown < 10 or shown > 99 else f"{shown:.0f} %"

    return _finite(value, percent)


def signed_share(value: Any) -> str:
    """A difference as a percentage with its sign: +3.2 %."""
    return _finite(value, lambda x: f"{100 * x:+.1f} %")


def ratio(value: Any) -> str:
    """A factor: 1.38×."""
    return _finite(value, lambda x: f"{x:.2f}×")


def seconds(value: Any) -> str:
    """A duration: 850 ms, 12.3 s, 4 min 10 s, 2 h 5 min."""

    def words(x: float) -> str:
        if x < 1:
            return f"{1e3 * x:.0f} ms"
        if x < 100:
            return f"{x:.3g} s"
        minutes, rest = divmod(round(x), 60)
        if minutes < 60:
            return f"{minutes} min {rest} s"
        return f"{minutes // 60} h {minutes % 60} min"

    return _finite(value, words)


def size(value: Any) -> str:
    """Bytes, in powers of 1,000: 2.56 GB."""

    def words(x: float) -> str:
        power = min(int(math.log10(x) / 3), len(_SIZES) - 1) if x >= 1 else 0
        return f"{_three(x / 1000**power)} {_SIZES[power]}"

    return _finite(value, words)


def magnitude(value: Any) -> str:
    """A large count: 200,832 is 201 k, 5,242,880 is 5.24 M."""

    def words(x: float) -> str:
        power = min(int(math.log10(x) / 3), 4) if x >= 1 else 0
        return f"{_three(x / 1000**power)} {('', 'k', 'M', 'G', 'T')[power]}".strip()

    return _finite(value, words)


def interval(low: Any, high: Any) -> str:
    """Two figures: 201–218; with an open end 201 or more, at most 218."""
    if number(low) is None:
        return NONE if number(high) is None else f"at most {figure(high)}"
    return f"{figure(low)} or more" if number(high) in (None, math.inf) else f"{figure(low)}–{figure(high)}"


def percentile(quantile: Any) -> str:
    """A quantile in (0, 1) by its name: p95, p99.9."""
    q = number(quantile)
    return NONE if q is None else f"p{100 * q:.6g}"


def with_unit(text: str, unit: str) -> str:
    """The text and its unit; no unit where there is no value."""
    return text if text in (NONE, UNAVAILABLE) else f"{text} {unit}"


def _finite(value: Any, words: Any) -> str:
    if isinstance(value, str):
        return value
    x = number(value)
    if x is None:
        return NONE
    if math.isinf(x):
        return "∞" if x > 0 else "-∞"
    return str(words(x))


def _three(x: float) -> str:
    if x == 0:
        return "0"
    if abs(x) >= 99.95:
        return f"{x:,.0f}"
    return f"{x:#.3g}".rstrip(".")

"""Documents as strict JSON, both ways: what JSON lacks (infinity, nan) is written as proto3 writes it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

DEEPEST = 50
_WORDS = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


def plain(value: Any) -> Any:
    """`value` made of JSON's own types: dict, list, str, int, float, bool, None.

    Infinite numbers and nan become the strings "Infinity", "-Infinity" and "NaN", NumPy scalars and arrays
    numbers and lists. Objects are converted by `to_json()` or `describe()`, dataclasses by their fields.

    Raises:
        TypeError: a value that is none of these.
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float | np.generic | np.ndarray):
        return _number(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(v) for v in value)
    if isinstance(value, Path):
        return str(value)
    for method in ("to_json", "describe"):
        if hasattr(value, method):
            return plain(getattr(value, method)())
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    raise TypeError(f"expected a value that JSON can hold, got {type(value).__name__}")


def restored(value: Any, depth: int = DEEPEST) -> Any:
    """What `plain` made a document from, the strings for infinity and nan turned back into numbers.

    Raises:
        ValueError: objects and lists are nested more than `depth` deep.
    """
    if not depth:
        raise ValueError(f"expected at most {DEEPEST} levels of objects and lists")
    if isinstance(value, dict):
        return {k: restored(v, depth - 1) for k, v in value.items()}
    if isinstance(value, list):
        return [restored(v, depth - 1) for v in value]
    return _WORDS.get(value, value) if isinstance(value, str) else value


def dumps(value: Any, indent: int | None = None) -> str:
    """Strict JSON text of any value that `plain` takes."""
    return json.dumps(plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _number(value: Any) -> Any:
    if not isinstance(value, float):
        return plain(value.tolist())
    if math.isfinite(value):
        return float(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"

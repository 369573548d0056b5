"""Documents as strict JSON, both ways. JSON has no infinity and no nan: both are written as null.

An object in which a value is infinite names its key in the list `infinite`: the percentile of a trial that
falls on a query without an answer is `"p95_ms": null, "infinite": ["p95_ms"]`. Every other null is unknown,
or the open end of an interval.
"""

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
INFINITE = "infinite"
"""The key under which an object names its infinite values."""
_WORDS = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
"""What files of release 0.1 have in place of a number."""


def plain(value: Any) -> Any:
    """`value` made of JSON's own types: dict, list, str, int, float, bool, None.

    Infinite numbers and nan become None, NumPy scalars and arrays numbers and lists. Objects are converted by
    `to_json()` or `describe()`, dataclasses by their fields.

    Raises:
        TypeError: a value that is none of these.
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float | np.generic | np.ndarray):
        if not isinstance(value, float):
            return plain(value.tolist())
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        found = {str(k): plain(v) for k, v in value.items()}
        infinite = [str(k) for k, v in value.items() if isinstance(v, float | np.floating) and v == math.inf]
        return found | ({INFINITE: infinite} if infinite else {})
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
        return plain({f.name: getattr(value, f.name) for f in fields(value)})
    raise TypeError(f"expected a value that JSON can hold, got {type(value).__name__}")


def restored(value: Any, depth: int = DEEPEST) -> Any:
    """What `plain` made a document from, with infinite values as numbers; also those of release 0.1, as text.

    Raises:
        ValueError: objects and lists are nested more than `depth` deep.
    """
    if not depth:
        raise ValueError(f"expected at most {DEEPEST} levels of objects and lists")
    if isinstance(value, dict):
        found = {k: restored(v, depth - 1) for k, v in value.items()}
        names = found.get(INFINITE)
        if isinstance(names, list) and all(isinstance(n, str) and found.get(n, 0) is None for n in names):
            found |= dict.fromkeys(names, math.inf)
            del found[INFINITE]
        return found
    if isinstance(value, list):
        return [restored(v, depth - 1) for v in value]
    return _WORDS.get(value, value) if isinstance(value, str) else value


def dumps(value: Any, indent: int | None = None) -> str:
    """Strict JSON text of any value that `plain` takes."""
    return json.dumps(plain(value), indent=indent, ensure_ascii=False, allow_nan=False)

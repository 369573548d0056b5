"""Strict JSON: numbers or null; what is infinite is named, and read back as it was, also from release 0.1."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from deeprecsys.report.json_values import dumps, plain, restored


@dataclass
class Figures:
    p50_ms: float
    p95_ms: float


def strict(text: str) -> Any:
    def refuse(word: str) -> Any:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (math.nan, None),
        (-math.inf, None),
        ([1.0, math.inf], [1.0, None]),
        (np.array([1.0, math.nan]), [1.0, None]),
        ({"mean_ms": math.nan, "p50_ms": 2.0}, {"mean_ms": None, "p50_ms": 2.0}),
        ({"p95_ms": np.float32(math.inf)}, {"p95_ms": None, "infinite": ["p95_ms"]}),
        (Figures(1.0, math.inf), {"p50_ms": 1.0, "p95_ms": None, "infinite": ["p95_ms"]}),
        ({"a": [{"b": math.inf}]}, {"a": [{"b": None, "infinite": ["b"]}]}),
    ],
)
def test_a_document_has_numbers_or_null_and_names_what_is_infinite(value: Any, written: Any) -> None:
    assert plain(value) == written
    assert strict(dumps(value)) == written


def test_an_infinite_value_is_read_back_and_written_again() -> None:
    value = {"qps": 3.0, "point": {"p50_ms": 1.0, "p95_ms": math.inf, "p99_ms": math.inf}}
    assert restored(strict(dumps(value))) == value
    assert dumps(restored(strict(dumps(value)))) == dumps(value)


def test_what_release_0_1_wrote_is_read() -> None:
    found = restored({"p95_ms": "Infinity", "low": ["-Infinity", 1], "mean_ms": "NaN", "model": "ncf"})
    assert (found["p95_ms"], found["low"], found["model"]) == (math.inf, [-math.inf, 1], "ncf")
    assert math.isnan(found["mean_ms"])


@pytest.mark.parametrize("names", [3, [3], ["absent"], ["p95_ms"], None])
def test_a_list_that_does_not_fit_its_object_is_left_as_it_is(names: Any) -> None:
    assert restored({"p95_ms": 4.0, "infinite": names}) == {"p95_ms": 4.0, "infinite": names}

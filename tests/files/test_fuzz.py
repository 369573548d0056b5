"""Files that were changed by chance: every one is read, or refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.files.fuzz import batch
from tests.files.fuzz import NAMES

COUNTS = {"run": 60, "archive": 40, "onnx": 40}


@pytest.fixture(scope="module")
def batches() -> dict[str, dict[str, Any]]:
    """The files of all kinds, read in two processes: one that needs torch, one that does not."""
    plain, others = ({k: COUNTS.get(k, 150) for k in some} for some in (NAMES[:6], NAMES[6:]))
    return batch(plain, 1_000_000) | batch(others, 1_000_000)


@pytest.mark.parametrize("kind", NAMES)
def test_changed_files_are_read_or_refused(kind: str, batches: dict[str, dict[str, Any]]) -> None:
    found, count = batches[kind], COUNTS.get(kind, 150)
    assert found["faults"] == []
    assert sum(found["seen"].values()) == count
    assert set(found["seen"]) <= {"read", "refused"}
    assert (found["descriptors"], found["children"]) == (0, 0)
    assert found["peak_mb"] < 2500


@pytest.mark.parametrize(("kind", "seed"), [("weights", 4537), ("onnx", 3674)])
def test_changed_files_that_gave_a_traceback_once(kind: str, seed: int) -> None:
    """An error without a message; a constant of no data type."""
    assert batch({kind: 1}, seed)[kind]["seen"] == {"refused": 1}

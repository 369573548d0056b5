"""Files that were changed by chance: every one is read, or refused in one line."""

from __future__ import annotations

import pytest

from benchmarks.files.fuzz import batch
from tests.files.fuzz import NAMES

COUNTS = {"run": 60, "archive": 40, "onnx": 40}


@pytest.mark.parametrize("kind", NAMES)
def test_changed_files_are_read_or_refused(kind: str) -> None:
    count = COUNTS.get(kind, 150)
    found = batch(kind, 1_000_000, count)
    assert found["faults"] == []
    assert sum(found["seen"].values()) == count
    assert set(found["seen"]) <= {"read", "refused"}
    assert (found["descriptors"], found["children"]) == (0, 0)
    assert found["peak_mb"] < 2500

"""One tuned run, shared by the tests that only read it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.report.tuned import write_tuned


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "tuned"
    write_tuned(path, seconds=1.0, sizes=[16, 64, 500])
    return path


@pytest.fixture
def tuned_copy(tuned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tuned, tmp_path / "run"))

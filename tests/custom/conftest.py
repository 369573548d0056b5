"""Files of models, made once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_model"


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the example's export script fills."""
    folder = tmp_path_factory.mktemp("ranker")
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "export.py"), str(folder)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert {p.suffix for p in folder.iterdir()} >= {".onnx", ".pt2", ".pt", ".safetensors"}
    return folder

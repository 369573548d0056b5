"""Engines from outside the package: a file, a module, an installed entry point."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deeprecsys.core.errors import InputError
from deeprecsys.engine import EngineSpec, SliceView, build
from deeprecsys.engine.spec import GROUP
from deeprecsys.plugins import installed, load
from tests.engine.test_engines import assembly

ENGINE = """
class SevenEngine:
    def __init__(self, assembly, args="7"):
        self.value = float(args)

    def score(self, slices):
        for s in slices:
            s.out[...] = self.value
"""


def scored(engine: str) -> float:
    out = np.zeros((2, 1), np.float32)
    build(engine, assembly("ncf")[0]).score([SliceView({}, 0, 2, out)])
    return float(out[0, 0])


def test_an_engine_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "seven_in_a_file.py").write_text(ENGINE)
    text = f"{tmp_path}/seven_in_a_file.py:SevenEngine"
    assert scored(text) == 7
    assert str(EngineSpec.parse(text)) == text
    assert load("engine", text) is load("engine", text)
    with pytest.raises(InputError, match="no_such"):
        load("engine", f"{tmp_path}/seven_in_a_file.py:no_such")


def test_an_engine_in_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "seven_in_a_module.py").write_text(ENGINE)
    monkeypatch.syspath_prepend(tmp_path)
    assert scored("seven_in_a_module:SevenEngine") == 7


def test_an_installed_engine_takes_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "seven_installed.py").write_text(ENGINE)
    about = tmp_path / "seven-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: seven\nVersion: 1\n")
    (about / "entry_points.txt").write_text(
        f"[{GROUP}]\nseven = seven_installed:SevenEngine\nbroken = seven_installed:Eight\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    installed.cache_clear()
    try:
        assert (scored("seven"), scored("seven:8")) == (7, 8)
        assert EngineSpec.parse("seven:8") == EngineSpec("seven", "8")
        with pytest.raises(InputError, match="engine 'broken': expected an entry point that can be loaded"):
            build("broken", assembly("ncf")[0])
    finally:
        installed.cache_clear()

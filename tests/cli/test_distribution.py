"""The distribution's metadata, and the other distribution that has the package's name."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from deeprecsys.__main__ import warn_of_clash
from tests.docs.snippets import ROOT


def test_another_distribution_of_the_name_is_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deeprecsys_serve-0.2.0.dist-info").mkdir()
    warn_of_clash(str(tmp_path))
    assert capsys.readouterr().err == ""
    (tmp_path / "deeprecsys-0.2.7.dist-info").mkdir()
    warn_of_clash(str(tmp_path))
    err = capsys.readouterr().err
    assert "pip uninstall deeprecsys" in err
    assert err.count("\n") == 1


def test_messages_and_documents_name_the_distribution_that_is_ours() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == "deeprecsys-serve"
    texts = [
        *(ROOT / "src").rglob("*.py"),
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
    ]
    wrong = [t for t in texts if "deeprecsys[" in t.read_text()]
    assert not wrong, f"install `{project['name']}[…]`, not `deeprecsys[…]`: {wrong}"

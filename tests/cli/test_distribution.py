"""The distribution's metadata, and the other distribution that has the package's name."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from deeprecsys.__main__ import warn_of_clash
from deeprecsys.extras import EXTRAS
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


PROFILE = str(ROOT / "profiles" / "amd-25-1-avx2" / "wnd.json")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["models"], ""),
        (["simulate", "--profile", PROFILE, "--sla-ms", "25", "--rate", "50", "--queries", "500"], ""),
        (["bench", "wnd", "--url", "http://localhost:1", "--rate", "10"], "localhost:1"),
        (["tune", "wnd", "--sla-ms", "25", "--rows-scale", "0.001"], "'deeprecsys-serve[engine]'"),
        (["serve", "wnd"], "'deeprecsys-serve[serve]'"),
    ],
    ids=lambda x: x[0] if isinstance(x, list) else "",
)
def test_the_core_works_without_the_extras_and_names_the_one_that_is_missing(
    arguments: list[str], said: str
) -> None:
    hidden = [module for modules in EXTRAS.values() for module in modules]
    code = (
        "import sys\n"
        f"for module in {hidden!r}: sys.modules[module] = None\n"
        "from deeprecsys.__main__ import main\n"
        "main()"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 if not said else done.returncode in (1, 2)
    assert said in done.stderr
    assert done.stderr.count("\n") <= 1

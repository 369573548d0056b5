"""The site builds without a warning, so without a link that leads nowhere, and lists what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import deeprecsys as dr
from benchmarks.summary import PICTURES, TOPICS, Topic, tables
from deeprecsys.cli import cli
from tests.docs.snippets import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_reference_pages_list_what_there_is(site: Path) -> None:
    commands, python = ((site / "reference" / f"{p}.html").read_text() for p in ("commands", "python"))
    for name, command in cli.commands.items():
        assert f'id="{name}"' in commands
        assert all(option in commands for p in command.params for option in p.opts if option.startswith("--"))
    assert set(re.findall(r'id="deeprecsys\.(\w+)"', python)) >= set(dir(dr))
    assert "deeprecsys_headroom_ratio" in (site / "reference" / "metrics.html").read_text()


def test_pages_fetch_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        fetched = re.findall(
            r'<(?:script|img|link|iframe)[^>]*(?:src|href)="((?:https?:)?//[^"]+)', page.read_text()
        )
        assert fetched == [], page.name


@pytest.mark.parametrize("topic", TOPICS, ids=lambda t: t.name)
def test_pictures_are_those_of_the_results(topic: Topic) -> None:
    path = PICTURES / f"{topic.name}.svg"
    assert (path.read_text() if path.exists() else None) == topic.picture(), (
        "run python -m benchmarks.summary"
    )


def test_sentences_are_those_of_the_results() -> None:
    page = (ROOT / "docs" / "results.md").read_text()
    for place, text in tables().items():
        marker = place.rpartition("#")[2]
        assert f"<!-- {marker} -->\n{text}\n<!-- /{marker} -->" in page, "run python -m benchmarks.summary"

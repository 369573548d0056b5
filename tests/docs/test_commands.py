"""Every command and every piece of Python in the documents runs; `rules.py` says how each is shortened."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import click
import pytest

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from deeprecsys.cli import cli
from tests.cli.conftest import write_profile
from tests.docs.rules import FIGURES, PRINTED, PYTHON, RULES, SOURCES, How, Rule, rule_of
from tests.docs.snippets import ROOT, Block, blocks, commands, inline
from tests.fixtures.commands import RELEASE, server, status

BLOCKS = blocks()
COMMANDS = [(b.file, text) for b in BLOCKS if b.is_commands for text, _ in commands(b.text)]
SERVED = ("ncf", "wnd", "examples/own_model/model.py:ServedRanker")
"""Models of the server that the documents share."""

DATA = {"json": json.loads, "toml": tomllib.loads}


@dataclass
class World:
    """What the commands find.

    Attributes:
        folder: where they run: files of the repository, and what earlier commands leave.
        url: of a server.
    """

    folder: Path
    exported: Path
    url: str = ""
    number: Iterator[int] = field(default_factory=count)

    def profile(self, model: str) -> str:
        """A file of batch times of `wait:1,0.05`, written by hand."""
        return str(write_profile(self.folder / f"profile-{next(self.number)}.json", 1e-3, 5e-5, model))

    def words(self, words: list[str], rule: Rule) -> list[str]:
        """The words of a command, shortened."""
        for old, new in rule.instead:
            words = [w.replace(old, new) for w in words]
        known = {"exported": self.exported, "server": self.url.removeprefix("http://"),
                 "out": self.folder / f"out-{next(self.number)}"}  # fmt: skip
        for name, value in known.items():
            words = [w.replace(f"{{{name}}}", str(value)) for w in (*words, *rule.more.split())]
            rule = Rule("")
        if "{profile}" in words:
            weights = words[words.index("--weights") + 1 :][:1] if "--weights" in words else []
            words[words.index("{profile}")] = self.profile("@".join([words[2], *weights]))
        return words


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, exported: Path) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    for name in ("examples", "profiles"):
        (folder / name).symlink_to(ROOT / name)
    for file in exported.iterdir():
        shutil.copy(file, folder)
    shutil.copytree(RELEASE / "tune", folder / "runs" / "rmc2")
    write_profile(folder / "din.json", 1e-3, 5e-5, "din")
    write_profile(folder / "constant.json", 1e-2, 1e-6, "constant")
    found = World(folder, exported)
    profiles = [x for m in SERVED for x in ("--profile", found.profile(m))]
    options = ["--rows-scale", "0.001", "--workers", "1", "--spares", "0", "--sla-ms", "1000",
               "--sizes", "fixed:20", "--policy", "static", "--batch-size", "20"]  # fmt: skip
    with server(*SERVED, *profiles, *options, cwd=folder) as url:
        found.url = url
        yield found


def run(text: str, world: World) -> None:
    """Run a command by its rule."""
    rule = rule_of(text)
    assert rule, f"expected a rule for {text!r} in tests/docs/rules.py, got none"
    words = world.words(shlex.split(text, comments=True), rule)
    match rule.how:
        case How.RUN:
            assert status(*words[1:], cwd=world.folder) == 0
        case How.SHELL:
            assert subprocess.run(["sh", "-c", text], cwd=world.folder).returncode == 0
        case How.EXPORT:
            assert list(world.exported.iterdir())
        case How.SERVE:
            with chdir(world.folder):
                serve = cli.commands["serve"]
                given = serve.make_context("serve", words[2:]).params
            (models,) = (given[p.name] for p in serve.params if isinstance(p, click.Argument) and p.name)
            assert set(models) <= set(SERVED)
        case How.DRY:
            for line in dry(words).splitlines():
                if found := re.search(r"bin/(deeprecsys .*)", line):
                    run(found[1], world)
        case How.FOREIGN:
            if shutil.which(words[0]) is None:
                pytest.skip(f"{words[0]} is not installed")
            fail = ["--fail"] if words[0] == "curl" else []
            done = subprocess.run([*words, *fail], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            assert words[0] != "curl" or done.stdout.startswith("# HELP") or json.loads(done.stdout)
        case How.INSTALL:
            asked = words[-1].partition("[")[2].rstrip("]")
            assert set(filter(None, asked.split(","))) <= extras()


def extras() -> set[str]:
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def dry(words: list[str]) -> str:
    done = subprocess.run([words[0], "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.live
@pytest.mark.parametrize(("file", "text"), COMMANDS, ids=[f"{file}: {text[:50]}" for file, text in COMMANDS])
def test_a_command_runs(file: str, text: str, world: World) -> None:
    run(text, world)


@pytest.mark.live
def test_a_served_model_answers(world: World) -> None:
    for model in SERVED:
        name = model.rpartition(":")[2]
        with urllib.request.urlopen(f"{world.url}/v2/models/{name}/ready") as answer:
            assert answer.status == 200


@pytest.mark.live
@pytest.mark.parametrize("file", sorted({b.file for b in BLOCKS if b.language == "python"}))
def test_python_runs(file: str, world: World) -> None:
    assert file in PYTHON, f"expected an entry for {file!r} in tests/docs/rules.py: PYTHON, got none"
    names: dict[str, Any] = {}
    with chdir(world.folder):
        for block in BLOCKS:
            if (block.file, block.language) == (file, "python"):
                text = block.text
                for old, new in PYTHON[file]:
                    assert old in text
                    new = new.replace("{server}", world.url.removeprefix("http://"))
                    text = text.replace(old, new.replace("{profile}", world.profile("wnd")))
                exec(compile(text, f"{file}, line {block.line}", "exec"), names)


@pytest.mark.live
@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language in SOURCES], ids=lambda b: b.language)
def test_other_languages_run(block: Block, world: World, tmp_path: Path) -> None:
    name, program = SOURCES[block.language]
    if shutil.which(program[0]) is None:
        pytest.skip(f"{program[0]} is not installed")
    (tmp_path / name).write_text(block.text.replace("http://localhost:8000", world.url))
    done = subprocess.run([*program, name], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outputs"][0]["shape"] == [2, 1]


@pytest.mark.parametrize("language", DATA)
def test_data_can_be_read(language: str) -> None:
    for block in BLOCKS:
        if block.language == language:
            assert DATA[language](block.text)


def test_no_block_is_left_out() -> None:
    known = {"python", "text", *DATA, *SOURCES}
    rest = [b for b in BLOCKS if not b.is_commands and b.language not in known]
    assert len(rest) == len(FIGURES)
    for block in rest:
        assert any(block.file == file and block.text.strip().startswith(head) for file, head in FIGURES), (
            block
        )


def test_printed_text_comes_from_a_run() -> None:
    for file in {b.file for b in BLOCKS if b.language == "text"}:
        texts = [b for b in BLOCKS if (b.file, b.language) == (file, "text")]
        assert len(PRINTED.findall((ROOT / file).read_text())) == len(texts), file


def test_every_rule_is_of_use() -> None:
    assert {rule_of(text) for _, text in COMMANDS} == set(RULES)
    assert PYTHON.keys() == {b.file for b in BLOCKS if b.language == "python"}


def options_of(command: str) -> set[str]:
    return {o for p in cli.commands[command].params for o in (*p.opts, *p.secondary_opts)} | {"--help"}


def test_code_within_sentences_names_what_there_is() -> None:
    assert [(file, code) for file, code in inline() if not exists(code)] == []


def exists(code: str) -> bool:
    """Whether there is what code names, as far as it names a command, an option, a script or an extra."""
    options = {name: options_of(name) for name in cli.commands}
    match code.split():
        case ["deeprecsys", command, *more] if command in options:
            return {word for word in more if word.startswith("--")} <= options[command]
        case ["deeprecsys", command, *_]:
            return command.startswith("-")
        case ["make", target]:
            return re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE) is not None
        case ["python", "-m", module, *_] if module.islower():  # capitals stand for any
            path = ROOT / module.replace(".", "/")
            return path.with_suffix(".py").exists() or (path / "__main__.py").exists()
        case ["python", script, *_] if script.endswith(".py"):
            return (ROOT / script).exists()
        case ["pip", "install", what] if found := re.search(r"deeprecsys-serve\[(\w+)\]", what):
            project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            return found[1] in project["optional-dependencies"]
        case [option, *_] if re.match("--[a-z]", option):
            scripts = "".join(path.read_text() for path in (ROOT / "benchmarks").rglob("*.py"))
            return option in set().union(*options.values()) or f'"{option}"' in scripts
    return True

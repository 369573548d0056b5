"""Options: the same in a command, in the function of its name, and in the files of deploy/."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from pathlib import Path

import pytest

import deeprecsys as dr
from deeprecsys.cli import cli
from deeprecsys.cli.help import EXAMPLES, GROUPS

DEPLOY = Path(__file__).parents[2] / "deploy"
COMMANDS = ["profile", "bench", "capacity", "tune", "quality", "simulate", "serve"]
RENAMED = {"json", "trace_out", "config_file", "help", "verbose", "save"}
"""Options of the command line alone."""


@pytest.mark.parametrize("name", COMMANDS)
def test_a_function_takes_the_options_of_its_command(name: str) -> None:
    options = {p.name for p in cli.commands[name].params} - RENAMED
    parameters = set(inspect.signature(getattr(dr, name)).parameters)
    # `profile --profile FILE`, hidden, is `--save FILE`; the function returns the profile.
    assert options - parameters == ({"profile"} if name == "profile" else set())


@pytest.mark.parametrize("name", COMMANDS)
def test_defaults_are_those_of_the_command_line(name: str) -> None:
    parameters = inspect.signature(getattr(dr, name)).parameters
    defaults = cli.commands[name].make_context(name, [], resilient_parsing=True).params
    searched = {"engine", "threads", "policy"} if name == "tune" else set()  # several may be given
    compared = defaults.keys() & parameters.keys() - {"model"} - searched
    assert len(compared) > 8
    for option in compared:
        assert defaults[option] == parameters[option].default or not defaults[option], option


@pytest.mark.parametrize("name", cli.commands)
def test_help_shows_examples_that_parse_and_a_whole_summary(name: str) -> None:
    assert len(EXAMPLES[name]) in (1, 2, 3)
    for example in EXAMPLES[name]:
        program, command, *arguments = shlex.split(example)
        assert (program, command) == ("deeprecsys", name)
        cli.commands[name].make_context(name, arguments)
    assert not cli.commands[name].get_short_help_str().endswith("...")


def test_each_option_stands_under_one_heading() -> None:
    headings = [option for options in GROUPS.values() for option in options]
    assert len(headings) == len(set(headings))
    assert set(headings) <= {p.name for command in cli.commands.values() for p in command.params}


def test_options_come_from_the_environment_unless_the_command_line_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DEEPRECSYS_TUNE_SLA_MS", "7")
    prefix = "DEEPRECSYS_TUNE"
    tune = cli.commands["tune"]
    assert tune.make_context("tune", ["wnd"], auto_envvar_prefix=prefix).params["sla_ms"] == 7
    given = tune.make_context("tune", ["wnd", "--sla-ms", "9"], auto_envvar_prefix=prefix).params
    assert given["sla_ms"] == 9
    assert cli.context_settings["auto_envvar_prefix"] == "DEEPRECSYS"


def test_the_containers_command_is_one_that_serve_takes() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    entry, command = (
        json.loads(re.findall(rf"^{k} (.*)", text, re.MULTILINE)[0]) for k in ("ENTRYPOINT", "CMD")
    )
    manifest = json.loads(re.findall(r"args: (.*)", (DEPLOY / "kubernetes/node.yaml").read_text())[0])
    assert entry[:2] == ["deeprecsys", "serve"]
    for arguments in (command, manifest):
        found = cli.commands["serve"].make_context("serve", [*entry[2:], *arguments]).params
        assert (found["host"], found["http_port"], found["grpc_port"]) == ("0.0.0.0", 8000, 8001)
        assert (found["model"], found["sla_ms"]) == (("wnd",), 25)

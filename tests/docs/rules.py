"""How each command of the documents is run in seconds. One without a rule fails its test.

The rule of a command is the first whose pattern is found in it, its words joined by spaces. A rule puts
in names of what the tests provide: {out} is a new folder, {profile} a profile of the command's model,
{exported} the folder of the example's exports, {server} host and port of the server.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from enum import Enum, auto


class How(Enum):
    RUN = auto()
    """`deeprecsys`, in the test's own process."""
    SHELL = auto()
    """By a shell, as it is written."""
    EXPORT = auto()
    """The example's export script; the fixture `exported` runs it once for all tests."""
    SERVE = auto()
    """Its options are parsed, and the server that the tests share has its models."""
    DRY = auto()
    """`make -n`, as a recipe may run these tests; commands of `deeprecsys` in it are run by their rules."""
    FOREIGN = auto()
    """A program of others; the test is skipped, with that reason, where it is not installed."""
    INSTALL = auto()
    """`pip install` of this distribution: its extras are in pyproject.toml. Nothing is installed."""


@dataclass(frozen=True)
class Rule:
    """
    Attributes:
        pattern: a regular expression.
        more: options that shorten it, appended.
        instead: parts of its words, and what they are replaced by.
    """

    pattern: str
    more: str = ""
    instead: tuple[tuple[str, str], ...] = ()
    how: How = How.RUN


FEW = "--rows-scale 0.001 --workers 1 --sizes fixed:20"
WAIT = f"{FEW} --engine wait:1,0.05"
WHOLE = "--workers 1 --sizes fixed:20 --engine wait:1,0.05"
"""Of a model that has weights: they fix its tables' rows."""
SHORT = "--budget 0.5"
"""Of a search: trials last some targets all the same, so the target is short too."""
SOON = f"{SHORT} --sla-ms 50"
TARGET = (("--target", "--sla-ms"), ("medium", "50"))
EXPORTS = (("/tmp/ranker", "{exported}"),)
SERVER = (("localhost:8000", "{server}"), ("/tmp/ranker/ranker.onnx", "ncf"), ("models/ranker", "models/ncf"))
"""The server has built-in models in place of the exported one."""

RULES = (
    Rule("^deeprecsys models$"),
    Rule("^deeprecsys serve ", instead=EXPORTS, how=How.SERVE),
    Rule("^deeprecsys quality ", f"{FEW} --queries 5"),
    Rule("^deeprecsys paper ", "5 --profiles none"),
    Rule("^deeprecsys report ", "--out {out}", (("runs/ranker", "runs/rmc2"),)),
    Rule("^deeprecsys simulate .*constant.json"),
    Rule("^deeprecsys simulate .*profiles/", "--queries 1000 --rate 50"),
    Rule("^deeprecsys simulate ", "--sizes fixed:20 --workers 4"),
    Rule("^deeprecsys bench .* --url ", "--queries 20 --sizes fixed:20", SERVER),
    Rule("^deeprecsys bench .*ranker", f"{WHOLE} --queries 40", EXPORTS),
    Rule("^deeprecsys bench .*--trace", WAIT),
    Rule("^deeprecsys bench ", f"{WAIT} --queries 40"),
    Rule("^deeprecsys capacity ", f"{WAIT} {SOON}"),
    Rule("^deeprecsys profile .*ranker", f"{WHOLE} {SHORT}", EXPORTS),
    Rule("^deeprecsys profile ", f"{WAIT} {SHORT}"),
    Rule(
        "^deeprecsys tune .*ranker",
        f"{WHOLE} {SOON} --profile {{profile}}",
        (*EXPORTS, ("runs/", "{out}/")),
    ),
    Rule(
        "^deeprecsys tune .*--target .*--gpu", f"{WAIT} {SHORT}", (("--target", "--sla-ms"), ("medium", "50"))
    ),
    Rule("^deeprecsys tune .*--precision", f"{FEW} {SOON} --engine compiled"),
    Rule("^deeprecsys tune .*--profile", f"{FEW} {SOON}"),
    Rule("^deeprecsys tune ", f"{FEW} {SOON} --profile {{profile}}", (("runs/", "{out}/"),)),
    Rule("^curl ", instead=SERVER, how=How.FOREIGN),
    Rule("^echo ", how=How.SHELL),
    Rule("^python examples/own_model/export.py ", how=How.EXPORT),
    Rule(r"^make \w+$", how=How.DRY),
    Rule("^pip install ", how=How.INSTALL),
    Rule("^perf_analyzer ", "--measurement-interval 1000", SERVER, How.FOREIGN),
)

SMALL_WND = 'rows_scale=0.001, workers=1, sizes="fixed:20"'
PYTHON: dict[str, tuple[tuple[str, str], ...]] = {
    "docs/reference/python.md": (
        ("sla_ms=25)", f"sla_ms=25, {SMALL_WND})"),
        ('dr.tune("wnd",', 'dr.tune("wnd", budget=0.5, profile="{profile}",'),
        ("workers=40", "workers=4"),
        ("rate=50)", 'rate=50, queries=20, sizes="fixed:20")'),
    ),
    "docs/profile-format.md": (),
    "docs/howto/clients.md": (("localhost:8000", "{server}"), ("timeout=5000", "timeout=1000000")),
}
"""By document, what is replaced in its Python to shorten it. Its snippets run in order, as one program."""

PRINTED = re.compile(r"<!-- printed-[\w-]+ -->\n```text\n.*?^```\n<!-- /printed", re.MULTILINE | re.DOTALL)
"""What commands printed in one real run: these blocks are of language `text`."""

SOURCES = {"java": ("Score.java", ("java",)), "go": ("score.go", ("go", "run"))}
"""By language of a block, the file that it becomes and what runs it, where that is installed."""

FIGURES = (("docs/architecture.md", "deeprecsys (command)"), ("docs/results/serving.md", "$ perf_analyzer "))
"""Blocks that are not to be run, a map and what a benchmark printed: document, and the block's beginning."""


def rule_of(text: str) -> Rule | None:
    """The rule of a command as it is written."""
    command = " ".join(shlex.split(text, comments=True))
    return next((rule for rule in RULES if re.search(rule.pattern, command)), None)

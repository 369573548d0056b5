"""Directives that make reference pages from what they describe: options from click, functions from their
docstrings, metrics from a scrape. So these pages cannot say anything else than the code does."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from math import nan
from typing import Any

import click
from docutils import nodes
from docutils.statemachine import StringList
from prometheus_client.parser import text_fd_to_metric_families
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Generated(SphinxDirective):
    """Markdown, or where `rst` is set reStructuredText, in the place of a directive without content."""

    has_content = False
    rst = False

    def lines(self) -> Iterator[str]:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        lines = list(self.lines())
        if self.rst:
            lines = ["```{eval-rst}", *lines, "```"]
        container = nodes.section()
        container.document = self.state.document
        self.state.nested_parse(StringList(lines, source=self.env.docname), 0, container, match_titles=True)
        return list(container.children)


class Commands(Generated):
    """Every command of the command line: what its help says, with a table for each group of options."""

    def lines(self) -> Iterator[str]:
        from deeprecsys.cli import cli
        from deeprecsys.cli.help import EXAMPLES, Command

        for name, command in cli.commands.items():
            assert isinstance(command, Command)
            ctx = click.Context(command, info_name=f"deeprecsys {name}")
            yield from (f"## {name}", "", inspect.cleandoc(command.help or ""), "")
            yield from ("```sh", *EXAMPLES[name], "```", "")
            for heading, records in command.grouped(ctx).items():
                yield from ("", f"| {heading} | meaning |", "|---|---|")
                for written, text in records:
                    cells = (f"`{written}`", " ".join(text.split()).replace("<", "\\<"))
                    yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
            yield ""


class Metrics(Generated):
    """Every metric of `/metrics`: name, type, labels and meaning."""

    def lines(self) -> Iterator[str]:
        from deeprecsys.node.service.backend import QueryOutcome, QueryRecord
        from deeprecsys.serve.metrics.counters import Counters
        from deeprecsys.serve.metrics.prometheus import exposition
        from tests.serve.stand_in import StandIn

        counters = Counters()  # a query that was refused, so that each family has a sample with its labels
        refused = QueryOutcome.SHED
        counters.query_ended(QueryRecord(-1, "mixed", 0, 0.0, nan, 0.0, 0.0, 0, refused, "overload"))
        _, text = exposition(StandIn.of(), counters)
        yield "| metric | type | labels | meaning |"
        yield "|---|---|---|---|"
        for family in text_fd_to_metric_families(iter(text.decode().splitlines())):
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = sorted({label for s in family.samples for label in s.labels} - {"le"})
            shown = ", ".join(f"`{label}`" for label in labels) or "–"
            yield f"| `{name}` | {family.type} | {shown} | {family.documentation} |"


class Api(Generated):
    """Every public name of the package, by kind."""

    rst = True

    def lines(self) -> Iterator[str]:
        import deeprecsys as dr
        from deeprecsys.core.policy import Policy

        public = {name: getattr(dr, name) for name in dir(dr)}
        left = dict(public)

        def take(which: Any) -> dict[str, Any]:
            found = {name: value for name, value in left.items() if which(name, value)}
            for name in found:
                del left[name]
            return found

        kinds = {
            "Functions": take(lambda _, v: inspect.isfunction(v)),
            "Results": take(lambda name, _: name.endswith("Run")),
            "Policies": take(lambda _, v: inspect.isclass(v) and issubclass(v, Policy)),
            "Errors": take(lambda _, v: inspect.isclass(v) and issubclass(v, BaseException)),
            "Further names": take(lambda *_: True),
        }
        for title, names in kinds.items():
            yield from (title, "-" * len(title), "")
            for name, value in names.items():
                if inspect.isclass(value):
                    yield from (f".. autoclass:: deeprecsys.{name}", "   :members:", "")
                else:
                    kind = "function" if inspect.isfunction(value) else "data"
                    yield from (f".. auto{kind}:: deeprecsys.{name}", "")


def accessible(_app: Sphinx, _page: str, _template: str, context: dict[str, Any], _tree: object) -> None:
    """Give headings of the navigation their level, and let a keyboard scroll wide blocks of code."""
    for part, old, new in (
        ("furo_navigation_tree", 'role="heading"', 'role="heading" aria-level="2"'),
        ("body", "<pre>", '<pre tabindex="0">'),
    ):
        if part in context:
            context[part] = context[part].replace(old, new)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("commands", Commands)
    app.add_directive("metrics", Metrics)
    app.add_directive("api", Api)
    app.connect("html-page-context", accessible, priority=900)  # after the theme
    return {"parallel_read_safe": True}

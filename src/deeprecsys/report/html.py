"""Pages that need nothing but themselves: HTML with its style and its plots inside.

`Page` is what the template `page.html` shows; `html` makes the document of one. A package with a template of
its own (`deeprecsys.paper`) renders it by `rendered`, with the macros of `parts.html` and the common style.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from deeprecsys.report.plots.look import Illustration
from deeprecsys.report.tables import TextTable

HERE = "deeprecsys.report"


@dataclass(frozen=True, slots=True)
class Card:
    """One large figure of the headline; `role` (static, tuned) chooses its colour."""

    label: str
    value: str
    note: str = ""
    role: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """What to know before reading on, in a coloured box."""

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values under a title."""

    title: str
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Why:
    """A trial in words."""

    trial: str
    overview: tuple[str, ...]
    slowest: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """What the template shows, from top to bottom; empty parts are left out.

    Attributes:
        void: why no figure counts; empty where they do.
        headline: large figures.
        notices: what to know first.
        tables: in full, with `facts` next to them.
        plots: two in a row where there is room; `why` follows them.
        details: tables that are folded.
        setup: facts at the end.
    """

    title: str
    subtitle: str
    void: str = ""
    headline: Sequence[Card] = ()
    notices: Sequence[Notice] = ()
    tables: Sequence[TextTable] = ()
    facts: Sequence[Facts] = ()
    plots: Sequence[Illustration] = ()
    why: Why | None = None
    details: Sequence[TextTable] = ()
    setup: Sequence[Facts] = ()
    footer: str = ""


def html(page: Page) -> str:
    """The page as a document."""
    return rendered("page.html", page=page)


def rendered(template: str, *packages: str, **values: Any) -> str:
    """A template as a document; every text in it is escaped.

    Args:
        template: its file.
        packages: where it, what it imports, and further `page.css` are; this package is always the last.
        values: what it shows; `css`, the style sheets of all packages, is added.
    """
    environment, css = _environment((*packages, HERE))
    return environment.get_template(template).render(css=css, **values)


@cache
def _environment(packages: tuple[str, ...]) -> tuple[Environment, Markup]:
    """The templates and the style of some packages; later ones are overridden."""
    loaders = [PackageLoader(package, ".") for package in packages]
    environment = Environment(
        loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    css = (loader.get_source(environment, "page.css")[0] for loader in reversed(loaders))
    return environment, Markup("".join(css))

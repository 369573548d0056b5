"""All figures as one HTML page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from deeprecsys.paper import directions
from deeprecsys.paper.result import ClaimVerdict, FigureTable, Result
from deeprecsys.report.plots import svg


def page(results: Sequence[Result], after: Sequence[FigureTable], subtitle: str, footer: str) -> str:
    """The page as a document.

    Args:
        results: in order.
        after: tables at the end: sensitivity, constants.
        subtitle, footer: how it was made.
    """
    here, shared = (PackageLoader(f"deeprecsys.{p}", ".") for p in ("paper", "report"))
    environment = Environment(
        loader=ChoiceLoader([here, shared]), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    style = "".join(loader.get_source(environment, "page.css")[0] for loader in (shared, here))
    claims = [c for r in results for c in r.claims]
    found = directions.table({r.number: r for r in results})
    drawings = {
        r.number: [
            (d.title, d.caption, Markup(svg(d.figure, f"f{r.number}{d.name}", d.title))) for d in r.drawings
        ]
        for r in results
    }
    return environment.get_template("page.html").render(
        results=results,
        drawings=drawings,
        after=after,
        directions=found,
        agree=sum(c.verdict is ClaimVerdict.AGREES for c in claims),
        total=len(claims),
        seen=sum(row[1] == "seen" for row in found.rows),
        subtitle=subtitle,
        footer=footer,
        css=Markup(style),
    )

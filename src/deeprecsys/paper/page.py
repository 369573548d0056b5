"""All figures as one HTML page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence

from deeprecsys.paper import directions
from deeprecsys.paper.result import ClaimVerdict, Result, TextTable
from deeprecsys.report.html import rendered


def page(results: Sequence[Result], after: Sequence[TextTable], subtitle: str, footer: str) -> str:
    """The page as a document; `after` are tables at its end, subtitle and footer say how it was made."""
    claims = [c for r in results for c in r.claims]
    found = directions.table({r.number: r for r in results})
    return rendered(
        "page.html",
        "deeprecsys.paper",
        results=results,
        after=after,
        directions=found,
        agree=sum(c.verdict is ClaimVerdict.AGREES for c in claims),
        total=len(claims),
        seen=sum(row[1] == "seen" for row in found.rows),
        subtitle=subtitle,
        footer=footer,
    )

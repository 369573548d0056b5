"""What a figure is: claims held against the paper, data, plots, tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from matplotlib.figure import Figure


class ClaimVerdict(StrEnum):
    AGREES = "agrees"
    DIFFERS = "differs"
    ALIKE = "no difference"
    OPEN = "cannot be told"


@dataclass(frozen=True, slots=True)
class Claim:
    """One statement of the paper beside ours.

    Attributes:
        what: is claimed.
        paper, ours: values, as they are shown.
        verdict: which `why` explains.
    """

    what: str
    paper: str
    ours: str
    verdict: ClaimVerdict
    why: str = ""

    def row(self) -> tuple[str, ...]:
        return (self.what, self.paper, self.ours, self.verdict.value, self.why)


@dataclass(frozen=True, slots=True)
class FigureTable:
    """Rows under a header, the first `left` columns names."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1

    def markdown(self) -> str:
        lines = [self.header, tuple("---" for _ in self.header), *self.rows]
        return "\n".join("| " + " | ".join(row) + " |" for row in lines)


@dataclass(frozen=True, slots=True)
class Drawing:
    """A plot, what it shows, and what it is called in file names."""

    name: str
    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True, slots=True)
class Result:
    """A figure of the paper, made again.

    Attributes:
        number: the paper's.
        title: what it shows.
        basis: modelled, measured, counted, simulated …: what the values are.
        claims: held against the paper.
        drawings, tables: to be looked at.
        data: all values, as JSON.
    """

    number: int
    title: str
    basis: str
    claims: tuple[Claim, ...]
    drawings: tuple[Drawing, ...] = ()
    tables: tuple[FigureTable, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"figure{self.number:02d}"

    def document(self) -> dict[str, Any]:
        """The data file."""
        claims = [
            {"what": c.what, "paper": c.paper, "ours": c.ours, "verdict": c.verdict.value, "why": c.why}
            for c in self.claims
        ]
        return {
            "figure": self.number,
            "title": self.title,
            "basis": self.basis,
            "claims": claims,
            "data": self.data,
        }


def claim_table(result: Result) -> FigureTable:
    """The claims as a table."""
    header = ("claim", "paper", "ours", "verdict", "why")
    return FigureTable("Beside the paper", header, tuple(c.row() for c in result.claims))


def seen(is_seen: bool) -> ClaimVerdict:
    return ClaimVerdict.AGREES if is_seen else ClaimVerdict.DIFFERS


def direction(up: int, down: int, of: int) -> ClaimVerdict:
    """Of so many pairs, how many differ as claimed and how many the other way, beyond what can be resolved: a
    direction takes half of them."""
    if 2 * max(up, down) < of or up == down:
        return ClaimVerdict.ALIKE
    return seen(up > down)

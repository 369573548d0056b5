"""What a figure is: claims compared with the paper, data, plots, tables."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from deeprecsys.report.plots.look import Illustration, stamp
from deeprecsys.report.tables import TextTable

__all__ = ["Claim", "ClaimVerdict", "Illustration", "Result", "TextTable", "claim_table", "direction", "seen"]


class ClaimVerdict(StrEnum):
    AGREES = "agrees"
    DIFFERS = "differs"
    ALIKE = "no difference"
    OPEN = "cannot be told"


@dataclass(frozen=True, slots=True)
class Claim:
    """One statement of the paper beside ours.

    Attributes:
        paper, ours: values, as they are shown.
        verdict: which `why` explains.
    """

    what: str
    paper: str
    ours: str
    verdict: ClaimVerdict
    why: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """A figure of the paper, made again.

    Attributes:
        basis: modelled, measured, counted, simulated …: what the values are; every plot says it.
        claims: compared with the paper.
        data: all values, as JSON.
    """

    number: int
    title: str
    basis: str
    claims: tuple[Claim, ...]
    plots: tuple[Illustration, ...] = ()
    tables: tuple[TextTable, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for plot in self.plots:
            stamp(plot.figure, self.basis)

    @property
    def name(self) -> str:
        return f"figure{self.number:02d}"

    def document(self) -> dict[str, Any]:
        """The data file."""
        return {
            "figure": self.number,
            "title": self.title,
            "basis": self.basis,
            "claims": [asdict(c) for c in self.claims],
            "data": self.data,
        }


def claim_table(result: Result) -> TextTable:
    """The claims as a table."""
    rows = tuple((c.what, c.paper, c.ours, c.verdict.value, c.why) for c in result.claims)
    return TextTable(("claim", "paper", "ours", "verdict", "why"), rows, title="Beside the paper")


def seen(is_seen: bool) -> ClaimVerdict:
    return ClaimVerdict.AGREES if is_seen else ClaimVerdict.DIFFERS


def direction(up: int, down: int, of: int) -> ClaimVerdict:
    """The verdict on a direction in which `up` of `of` pairs differ, and `down` the other way, by more than
    can be resolved: a direction takes half of the pairs."""
    if 2 * max(up, down) < of or up == down:
        return ClaimVerdict.ALIKE
    return seen(up > down)

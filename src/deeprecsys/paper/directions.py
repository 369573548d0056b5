"""The directions that must come out (facts §4), each seen or not seen, with the evidence."""

from __future__ import annotations

from collections.abc import Mapping

from deeprecsys.paper.figures import figure10, figure12, figure14
from deeprecsys.paper.result import ClaimVerdict, Result, TextTable
from deeprecsys.paper.study import Study

OF = {12: (0, 1, 2), 14: (0,), 10: (0, 1, 2)}
"""Figure → which of its claims are directions."""

WORDS = {
    ClaimVerdict.AGREES: "seen",
    ClaimVerdict.DIFFERS: "not seen",
    ClaimVerdict.ALIKE: "no difference",
    ClaimVerdict.OPEN: "depends on the reading",
}


def table(results: Mapping[int, Result]) -> TextTable:
    """The directions of the figures that were made."""
    rows = tuple(
        (c.what, WORDS[c.verdict], c.ours, f"figure {n}")
        for n, which in OF.items()
        if n in results
        for c in (results[n].claims[i] for i in which)
    )
    return TextTable(("direction", "verdict", "evidence", "from"), rows, title="Directions")


def verdicts(study: Study) -> dict[str, ClaimVerdict]:
    """Every direction's verdict on a study."""
    return {**figure12.verdicts(study), **figure14.verdicts(study), **figure10.verdicts(study)}

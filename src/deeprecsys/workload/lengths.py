"""How many ids the rows of jagged inputs have, and what rows have in common."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError, shown, unknown
from deeprecsys.files import read_text
from deeprecsys.workload.spec import Named, number, split, within

HEAVY = "lognormal"
"""The lengths by default: with a mean of 16 one row in a hundred has more than 99 ids."""
_NORMAL = np.array([NormalDist().inv_cdf((k + 0.5) / 1000) for k in range(1000)])
_STEPS = 100  # of the quantiles that are kept of a file
_MOST_LENGTHS = 1 << 20


class LengthLaw(Protocol):
    """A distribution of lengths."""

    @property
    def spec(self) -> str:
        """The text that `parse` turns into this."""

    def drawn(self, z: NDArray[np.float64], expected: float, most: int) -> NDArray[np.float64]:
        """[n] lengths, not rounded, that rise with the standard normal numbers `z`.

        Args:
            expected: the input's mean length; most: its longest.
        """


@dataclass(frozen=True, slots=True)
class Equal(Named):
    """All rows have the mean length."""

    def drawn(self, z: NDArray[np.float64], expected: float, most: int) -> NDArray[np.float64]:
        return np.full(len(z), expected)


@dataclass(frozen=True, slots=True)
class Lognormal(Named):
    """Logarithms are normal with standard deviation `sigma`, the mean is the input's: a heavy tail."""

    ranges = ((0.0, 3.0),)

    sigma: float = 1.0

    def drawn(self, z: NDArray[np.float64], expected: float, most: int) -> NDArray[np.float64]:
        return expected * np.exp(self.sigma * z - self.sigma**2 / 2)


@dataclass(frozen=True, slots=True)
class Geometric(Named):
    """Each further id is as likely as the one before: a light tail."""

    def drawn(self, z: NDArray[np.float64], expected: float, most: int) -> NDArray[np.float64]:
        return -expected * np.log1p(-_uniform(z))


@dataclass(frozen=True)
class Quantiles:
    """Lengths as recorded: equally spaced quantiles, straight lines between them. Means are its own."""

    values: tuple[float, ...]

    @property
    def spec(self) -> str:
        return f"quantiles:{','.join(f'{v:g}' for v in self.values)}"

    def drawn(self, z: NDArray[np.float64], expected: float, most: int) -> NDArray[np.float64]:
        return np.interp(_uniform(z), np.linspace(0, 1, len(self.values)), self.values)


@dataclass(frozen=True)
class Lengths:
    """Lengths of the rows of a model's jagged inputs.

    Attributes:
        law: of the lengths of one input.
        item: the share of the variance (of the normal numbers that lengths rise with) that all inputs of an
            item have in common: popular items have many ids everywhere.
        query: the share that neighbouring items have in common: the candidates of one query are alike.
    """

    law: LengthLaw
    item: float = 0.0
    query: float = 0.0

    @property
    def spec(self) -> str:
        alike = f"@{self.item:g},{self.query:g}" if self.item or self.query else ""
        return self.law.spec + alike

    def mean(self, expected: float, most: int) -> float:
        """The mean length of an input."""
        lengths = self.law.drawn(_NORMAL, expected, most)
        return float(np.clip(np.rint(lengths), 0, most).mean())

    def of(
        self,
        own: NDArray[np.float64],
        item: NDArray[np.float64],
        query: NDArray[np.float64],
        alike: int,
        expected: float,
        most: int,
    ) -> NDArray[np.int32]:
        """[n] lengths from 0 to `most` of an input's rows.

        Args:
            own, item: [n] standard normal numbers of the input's rows, and of those of all inputs together.
            query: [n / alike, rounded up] of runs of `alike` rows.
        """
        common = np.repeat(query, alike)[: len(own)]
        left = max(1.0 - self.item - self.query, 0.0)
        z = np.sqrt(left) * own + np.sqrt(self.item) * item + np.sqrt(self.query) * common
        return np.clip(np.rint(self.law.drawn(z, expected, most)), 0, most).astype(np.int32)


def parse(text: str) -> Lengths:
    """`LAW` or `LAW@ITEM[,QUERY]`: what rows have in common, as shares of the variance.

    Laws: `equal`, `lognormal[:SIGMA]`, `geometric`, `file:PATH` (a length on each line), and
    `quantiles:Q0,…,Qn`, equally spaced from the least length to the longest.

    Raises:
        InputError: another name, or a number out of range; a file that holds no lengths.
    """
    law, at, shares = text.partition("@")
    given = [number("lookups: share", s) for s in shares.split(",")] if at else []
    if len(given) > 2 or sum(given) > 1 or min(given, default=0.0) < 0:
        raise InputError(f"lookups: expected shares ITEM[,QUERY] of at most 1 together, got {shown(shares)}")
    return Lengths(_law(law), *given)


def _law(text: str) -> LengthLaw:
    name, args = split(text)
    if name == "file":
        return _recorded(text.strip().partition(":")[2])
    if name == "quantiles":
        values = [within("lookups quantiles", number("lookups quantiles", a), 0, 1 << 24) for a in args]
        if len(values) < 2 or values != sorted(values):
            raise InputError(f"lookups quantiles: expected two or more rising numbers, got {shown(values)}")
        return Quantiles(tuple(values))
    kinds: dict[str, type[Any]] = {"equal": Equal, "lognormal": Lognormal, "geometric": Geometric}
    if name not in kinds:
        raise unknown("lookups", name, (*kinds, "file", "quantiles"))
    found: LengthLaw = kinds[name].of("lookups", args)
    return found


def _recorded(path: str) -> Quantiles:
    """The quantiles of a file of lengths."""
    words = read_text(f"lookups file {path}", path, "a length on each line").split()
    if not 2 <= len(words) <= _MOST_LENGTHS:
        raise InputError(f"lookups file {path}: expected 2 to {_MOST_LENGTHS} lengths, got {len(words)}")
    values = [within(f"lookups file {path}", number(f"lookups file {path}", w), 0, 1 << 24) for w in words]
    found = np.quantile(values, np.linspace(0, 1, _STEPS + 1))
    return Quantiles(tuple(float(v) for v in found))


def _uniform(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Uniform numbers in (0, 1) of the same order: the ranks."""
    ranks = np.empty(len(z))
    ranks[np.argsort(z, kind="stable")] = np.arange(len(z))
    return (ranks + 0.5) / max(len(z), 1)

"""Traces: files of recorded (arrival, size) rows."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError, at_most
from deeprecsys.files import first_line, parse_json, regular
from deeprecsys.workload.spec import number, whole

HEADER = ("arrival_s", "size")
LARGEST = 1 << 20
"""Items of the largest query that a trace may have."""
LATEST_S = 1e12


@dataclass(frozen=True, eq=False)
class Trace:
    """Recorded queries in the order of their arrival.

    Attributes:
        source: the file's name, for reports and errors.
        arrival_s: [n] float64 as recorded, never decreasing; any origin.
        size: [n] int32 items, at least 1.
    """

    source: str
    arrival_s: NDArray[np.float64]
    size: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.size)

    @property
    def gap_s(self) -> float:
        """The mean gap between arrivals; InputError if the trace spans no time."""
        span = float(self.arrival_s[-1] - self.arrival_s[0])
        if span <= 0:
            raise InputError(
                f"trace {self.source}: arrival_s: expected at least two different times, got one"
            )
        return span / (len(self) - 1)

    @property
    def rate_qps(self) -> float:
        """The mean rate as recorded."""
        return 1 / self.gap_s

    @property
    def period_s(self) -> float:
        """How long one round of the trace lasts when it is repeated: n mean gaps."""
        return self.gap_s * len(self)

    @property
    def since_start_s(self) -> NDArray[np.float64]:
        """[n] arrivals on a clock that starts one mean gap before the first."""
        since: NDArray[np.float64] = self.arrival_s - self.arrival_s[0] + self.gap_s
        return since


def read(path: str | Path) -> Trace:
    """The trace in a file: CSV rows `arrival_s,size`, with or without that header, or, if the name ends in
    `.jsonl`, one JSON object with these keys per line. Blank lines are skipped.

    Raises:
        InputError: it cannot be read, is empty, or a row is not a finite arrival of at least 0, no
            earlier than the row before, and a size of at least 1.
    """
    path = Path(path)
    lines, size = array("l"), array("l")
    arrival_s = array("d")
    for line, (arrival, count) in _rows(path):
        where = f"trace {path}, line {line}"
        at_s = number(f"{where}: arrival_s", arrival)
        if at_s < 0:
            raise InputError(f"{where}: arrival_s: expected at least 0, got {arrival}")
        if at_s > LATEST_S:
            raise InputError(f"{where}: arrival_s: expected at most {LATEST_S:g} seconds, got {at_s:g}")
        lines.append(line)
        arrival_s.append(at_s)
        items = whole(f"{where}: size", number(f"{where}: size", count))
        size.append(int(at_most(LARGEST, f"{where}: size", items, "as of other sizes")))
    if not lines:
        raise InputError(f"trace {path}: expected rows of arrival_s,size, got an empty file")
    for i, (before, after) in enumerate(pairwise(arrival_s)):
        if after < before:
            raise InputError(
                f"trace {path}, line {lines[i + 1]}: arrival_s: expected at least {before:.12g}, "
                f"the arrival before it, got {after:.12g}"
            )
    return Trace(str(path), np.array(arrival_s), np.array(size, np.int32))


def _rows(path: Path) -> Iterator[tuple[int, tuple[str, str]]]:
    """Line number, and the texts of arrival and size, of each row."""
    split = _json_row if path.suffix == ".jsonl" else _csv_row
    try:
        regular(path)
        with path.open(encoding="utf-8-sig") as file:
            first = True
            for number_, text in enumerate(file, 1):
                if text := text.strip():
                    row = split(f"trace {path}, line {number_}", text)
                    if not (first and tuple(x.lower() for x in row) == HEADER):
                        yield number_, row
                    first = False
    except OSError as e:
        raise InputError(f"trace {path}: expected a readable file, got: {first_line(e)}") from e
    except UnicodeDecodeError as e:
        raise InputError(f"trace {path}: expected text in UTF-8, got other bytes") from e


def _csv_row(where: str, text: str) -> tuple[str, str]:
    fields = [f.strip() for f in text.split(",")]
    if len(fields) != 2:
        raise InputError(f"{where}: expected arrival_s,size, got {text[:80]!r}")
    return fields[0], fields[1]


def _json_row(where: str, text: str) -> tuple[str, str]:
    try:
        row = parse_json(text)
        return str(row["arrival_s"]), str(row["size"])
    except (ValueError, TypeError, KeyError) as e:
        raise InputError(f'{where}: expected {{"arrival_s": …, "size": …}}, got {text[:80]!r}') from e

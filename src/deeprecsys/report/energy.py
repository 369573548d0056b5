"""The energy of a run, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deeprecsys.machine.record import UNAVAILABLE
from deeprecsys.report import format as f


def pairs(doc: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and words of the energy of a result: of its trial, or of its operating points."""
    parts = {"": doc.get("extra"), "static ": doc.get("static"), "tuned ": doc.get("tuned")}
    found = []
    for name, part in parts.items():
        spent = part.get("energy") if isinstance(part, Mapping) else None
        if isinstance(spent, Mapping):
            found.append((f"{name}energy", _words(spent)))
    return found


def _words(spent: Mapping[str, Any]) -> str:
    if f.number(spent.get("qps_per_watt")) is None:
        return UNAVAILABLE
    watts = spent["joules"] / spent["seconds"] if spent.get("seconds") else None
    return f"{f.figure(spent['qps_per_watt'])} queries/s per watt, {f.figure(watts)} W"

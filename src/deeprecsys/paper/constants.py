"""The constants that platforms are made of, and where each is from, as a table."""

from __future__ import annotations

from dataclasses import fields

from deeprecsys.paper.platforms import BROADWELL, SKYLAKE, CpuSpec
from deeprecsys.paper.result import TextTable


def table() -> TextTable:
    """All fields of the two servers."""
    rows = tuple(
        (
            f.name.replace("_", " "),
            _value(BROADWELL, f.name),
            _value(SKYLAKE, f.name),
            SKYLAKE.sources[f.name],
        )
        for f in fields(CpuSpec)
        if f.name not in ("name", "sources")
    )
    return TextTable(
        ("constant", "Broadwell", "Skylake", "source"), rows, title="Constants of the modelled servers"
    )


def _value(spec: CpuSpec, field: str) -> str:
    value = getattr(spec, field)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

"""The quality of scores at a lower precision, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deeprecsys.report import format as f

Document = Mapping[str, Any]


def pairs(doc: Document) -> list[tuple[str, str]]:
    """Name and words of each figure of a result's `quality`; nothing where it has none."""
    q = doc.get("quality")
    if not isinstance(q, Mapping):
        return []
    items = f"{f.count(q.get('queries'))} queries, {f.count(q.get('items'))} items"
    return [
        ("scores", f"{items}, beside {q.get('reference', 'the reference')}"),
        ("computed in", str(q.get("arithmetic") or f.NONE)),
        ("tables", f.size(q.get("table_bytes"))),
        ("largest difference", f"{_small(q.get('largest_difference'))}, scores up to "
                               f"{_small(q.get('largest_score'))}"),
        ("Spearman's rho", _mean_and_least(q, "spearman")),
        ("Kendall's tau", _mean_and_least(q, "kendall")),
        ("top 10 kept", _mean_and_least(q, "top_10")),
        ("best item kept", _figure(q.get("first"))),
    ]  # fmt: skip


def _mean_and_least(q: Document, name: str) -> str:
    mean, least = _figure(q.get(name)), _figure(q.get(f"{name}_least"))
    return mean if f.NONE in (mean, least) else f"{mean}, worst query {least}"


def _figure(value: Any) -> str:
    number = f.number(value)
    return f.NONE if number is None else f"{number:.4f}"


def _small(value: Any) -> str:
    number = f.number(value)
    return f.NONE if number is None else f"{number:.2g}"

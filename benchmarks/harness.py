"""What every benchmark shares: where its result goes, and what it states beside the figures."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deeprecsys.machine.record import machine_record
from deeprecsys.report.json_values import plain, restored

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SKIPPED = 3
"""Exit status of a script that cannot run here."""


def scripts() -> list[str]:
    """Every script, as FOLDER.NAME."""
    files = sorted((ROOT / "benchmarks").glob("*/*.py"))
    return [f"{f.parent.name}.{f.stem}" for f in files if f.parent.name != "lib" and f.stem != "__init__"]


def commit() -> str:
    """The commit that is checked out, and whether the tree differs from it."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def save(name: str, result: dict[str, Any]) -> Path:
    """Write a result with machine, commit and date."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    about = {"commit": commit(), "date": datetime.now(UTC).date().isoformat(), "machine": machine_record()}
    path.write_text(json.dumps(plain({**about, **result}), indent=1) + "\n")
    return path


def load(name: str) -> dict[str, Any]:
    """A result that was written before; empty where there is none."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = restored(json.loads(path.read_text())) if path.exists() else {}
    return found


def measured_on(machine: dict[str, Any]) -> str:
    """Where figures were measured, for the foot of a table: a machine record in words."""
    return f"Measured on {machine['cpu']} ({', '.join(machine['isa'])}), {machine['cores']} cores"


def put_in(document: Path, marker: str, body: str) -> None:
    """Replace what stands between `<!-- marker -->` and `<!-- /marker -->` in a document."""
    text = document.read_text()
    begin, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    if begin not in text or end not in text:
        raise SystemExit(f"{document}: expected the markers {begin} and {end}")
    head, rest = text.split(begin, 1)
    tail = rest.split(end, 1)[1]
    document.write_text(f"{head}{begin}\n{body.strip()}\n{end}{tail}")

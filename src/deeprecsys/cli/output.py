"""Where results go: text to stdout, one JSON document, a run directory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from deeprecsys.core.errors import InputError
from deeprecsys.core.runlog import Summary
from deeprecsys.machine.record import machine_record
from deeprecsys.report.json_values import plain
from deeprecsys.report.rundir import RunWriter, read_run
from deeprecsys.search.events import CapacityDone, CapacityStarted, Event, PhaseStarted, ProbeDone, TrialDone


def emit(text: str, document: Any, json_file: str | None) -> None:
    """Print the text, or put the document in its place on stdout (`-`), or also into a file."""
    if json_file != "-":
        click.echo(text)
    if json_file is None:
        return
    if json_file == "-":
        click.echo(json.dumps(plain(document), indent=1))
    else:
        write_json("--json", Path(json_file), document)


def write_json(option: str, path: Path, document: Any) -> None:
    """Write a document to the file that an option names."""
    try:
        path.write_text(json.dumps(plain(document), indent=1) + "\n")
    except OSError as e:
        raise InputError(f"{option} {path}: expected a file that can be written, got: {e}") from e


@contextmanager
def run_directory(path: Path | None, configuration: dict[str, Any]) -> Iterator[RunWriter | None]:
    """The run directory that `--out` names, or None."""
    if path is None:
        yield None
        return
    with RunWriter(path, configuration, machine_record()) as writer:
        yield writer


def summary_document(s: Summary) -> dict[str, Any]:
    """A trial's summary under the names of the JSON of `bench`."""
    return {**asdict(s), "qps": s.rate_qps, "miss_rate": s.miss_rate}


def event_document(event: Event) -> dict[str, Any]:
    """One event of a search as JSON values, for the run directory."""
    kind = {"event": type(event).__name__}
    match event:
        case PhaseStarted(phase, budget_s):
            return {**kind, "phase": phase, "budget_s": budget_s}
        case CapacityStarted(policy, budget_s, floor_qps):
            return {**kind, **policy.describe(), "budget_s": budget_s, "floor_qps": floor_qps}
        case TrialDone(policy, rate_qps, seconds, queries, miss_rate, void):
            return {
                **kind, **policy.describe(), "rate_qps": rate_qps, "seconds": seconds, "queries": queries,
                "miss_rate": miss_rate, "void": void,
            }  # fmt: skip
        case ProbeDone(policy, probe):
            return {**kind, **policy.describe(), **probe.to_json()}
        case CapacityDone(policy, result):
            return {**kind, **policy.describe(), **result.to_json()}
        case _:
            return {**kind, **event.policy.describe(), "rate_qps": event.rate_qps}


def report_on(out_dir: Path | None) -> None:
    """Render a run directory that a command has just filled, and say where."""
    if out_dir:
        from deeprecsys.report.render import render

        page = render([read_run(out_dir)], out_dir)[0]
        click.echo(f"page: {page}", err=True)

"""Where results go: text or one JSON document to standard output, a file, a rendered run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deeprecsys.api.runs import AnyRun
from deeprecsys.core.errors import InputError
from deeprecsys.files import first_line
from deeprecsys.report.json_values import dumps
from deeprecsys.report.rundir import read_run


def emit(text: str, document: Any, json_file: str | None) -> None:
    """Print the text, or the document in its place (`-`), or write the document to a file as well."""
    if json_file != "-":
        click.echo(text)
    if json_file is None:
        return
    if json_file == "-":
        click.echo(dumps(document, indent=1))
    else:
        write_json("--json", json_file, document)


def emit_result(result: AnyRun, json_file: str | None) -> None:
    """Print a result as text, or as JSON."""
    emit(repr(result), result.to_json(), json_file)


def write_json(option: str, path: str, document: Any) -> None:
    """Write a document to the file that an option names."""
    try:
        Path(path).write_text(dumps(document, indent=1) + "\n")
    except OSError as e:
        raise InputError(f"{option} {path}: expected a file that can be written, got: {e}") from e


def report_on(folder: Path | None) -> None:
    """Render a run directory that a command has just filled, and print where the page is."""
    if folder:
        from deeprecsys.report.render import render  # matplotlib takes a second to load

        try:
            page = render([read_run(folder)], folder)[0]
        except OSError as e:
            raise InputError(f"--out {folder}: expected room to write, got: {first_line(e)}") from e
        click.echo(f"page: {page}", err=True)

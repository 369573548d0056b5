"""`report`: run directories, rendered again."""

from __future__ import annotations

from pathlib import Path

import click

from deeprecsys.cli import options as opt
from deeprecsys.cli.help import command
from deeprecsys.core.errors import InputError
from deeprecsys.extras import require
from deeprecsys.files import first_line
from deeprecsys.report.rundir import read_run


@command("report")
@click.argument("directories", nargs=-1, required=True, metavar="DIR...", type=opt.FILE)
@opt.option(
    "--out",
    "DIR",
    "Where to write.  [default: into the one DIR; ./comparison for several]",
    type=click.Path(file_okay=False, path_type=Path),
)
def report(directories: tuple[Path, ...], out: Path | None) -> None:
    """Render run directories again: report.html, report.txt and plots; several are compared."""
    require("engine", "`report`")
    runs = [read_run(d) for d in directories]
    for run in runs:
        for problem in run.problems:
            click.echo(f"deeprecsys: {run.name}: {problem}", err=True)
    from deeprecsys.report.render import render  # matplotlib takes a second to load

    folder = out or (directories[0] if len(runs) == 1 else Path("comparison"))
    try:
        written = render(runs, folder)
    except OSError as e:
        raise InputError(
            f"--out {folder}: expected a directory that can be written, got: {first_line(e)}"
        ) from e
    click.echo(next(p for p in written if p.suffix == ".txt").read_text(), nl=False)
    click.echo(f"page: {written[0]}")

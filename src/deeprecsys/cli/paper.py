"""`paper`: the paper's evaluation, made again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from deeprecsys.api.progress import StageReport, stage
from deeprecsys.cli import options as opt
from deeprecsys.cli.help import command
from deeprecsys.cli.output import emit
from deeprecsys.core.errors import InputError
from deeprecsys.extras import require
from deeprecsys.files import check_folder
from deeprecsys.report import format as f


@command("paper")
@click.argument("figures", nargs=-1, metavar="[FIGURE]...")
@click.option(
    "--quick", is_flag=True, help="Shorter paths, fewer batch sizes and machines: under two minutes."
)
@click.option("--profiles", type=click.Path(path_type=Path), default=Path("profiles"), show_default=True,
              metavar="DIR", help="Measured profiles, KIND/MODEL.json, of the machine that is shown beside "
                                  "the modelled ones, and scaled to a server.")  # fmt: skip
@opt.output
def paper(figures: tuple[str, ...], quick: bool, profiles: Path, json: str | None, out: Path | None) -> None:
    """Make the paper's figures again, each beside the paper's values.

    FIGURE is a number of the paper: 1, 3-7, 9-14; without one, all are made. Its servers and its
    accelerator are modelled from published constants; the operator breakdown is measured here. Data
    files, plots and a page go to --out DIR, by default ./paper.
    """
    require("engine", "`paper`")
    from deeprecsys.paper import constants, recipes, sensitivity, uncertainty
    from deeprecsys.paper.page import page
    from deeprecsys.paper.parallel import parallel
    from deeprecsys.paper.study import Study

    numbers = recipes.chosen(figures)
    folder = out or Path("paper")
    check_folder(f"--out {folder}", folder)
    study = Study(quick=quick, profiles=profiles)
    results, seconds = [], {}
    begun = time.monotonic()
    steps = len(numbers) + (0 if figures else 2)
    with stage("paper", True) as report, parallel(study) as members:
        for i, n in enumerate(numbers):
            report(i / steps, f"figure {n}")
            result, seconds[n] = members.make(n, _telling(report, i, steps, f"figure {n}"))
            _written(folder, lambda result=result: recipes.write(result, folder))
            results.append(result)
        after = [constants.table()]
        document: dict[str, Any] = {
            "quick": quick,
            "figures": [r.document() for r in results],
            "seconds": seconds,
        }
        if not figures:
            varied = members.vary(quick, _telling(report, steps - 2, steps, "sensitivity"))
            drawn = members.draw(quick, _telling(report, steps - 1, steps, "draw"))
            after = [*uncertainty.tables(drawn), *sensitivity.tables(varied), *after]
            document["sensitivity"] = sensitivity.document(varied)
            document["draws"] = uncertainty.document(drawn)
    took = time.monotonic() - begun
    document["total_seconds"] = took
    subtitle = f"{'quick, ' if quick else ''}{len(results)} figures"
    html = page(results, after, subtitle, f"deeprecsys paper, {f.seconds(took)}")
    _written(folder, lambda: (folder / "index.html").write_text(html))
    if not figures:
        for name in ("sensitivity", "draws"):
            _written(folder, lambda name=name: recipes.save(folder / f"{name}.json", document[name]))
    lines = [
        f"figure {r.number:>2}  {c.verdict.value:<15} {c.what}: {c.ours} (paper: {c.paper})"
        for r in results
        for c in r.claims
    ]
    emit("\n".join(lines), document, json)
    click.echo(f"page: {folder / 'index.html'}", err=True)


def _telling(report: StageReport, step: int, steps: int, name: str) -> Callable[[float, str], None]:
    return lambda share, what: report((step + share) / steps, f"{name}: {what}")


def _written(out_dir: Path, write: Any) -> None:
    """Write, or say that it cannot be."""
    try:
        write()
    except OSError as e:
        raise InputError(f"--out {out_dir}: expected a directory that can be written, got: {e}") from e

"""`load`: other weights for a running server."""

from __future__ import annotations

from typing import Any

import click

from deeprecsys.api.load import load
from deeprecsys.cli import options as opt
from deeprecsys.cli.help import command


@command("load")
@click.argument("model", metavar="MODEL")
@opt.option("--url", "URL", "Of the server: http://HOST:PORT.", default="http://localhost:8000")
@opt.option("--weights", "FILE", "A .safetensors file in the server's --admin directory, by its path there.")
@opt.option(
    "--version",
    "NAME",
    "Version. Alone it names one that the server holds, or MODEL/NAME/weights.safetensors in its directory.  "
    "[default: the newest there]",
)
@opt.option("--keep-tables", None, "The file has the dense stage alone; the tables stay.", is_flag=True)
@opt.option("--keep", None, "Hold the version that served before, to return to it at once.", is_flag=True)
@opt.option("--token", "FILE", "The server's --admin-token.", type=opt.FILE)
def load_command(**options: Any) -> None:
    """Have a running server serve other weights of MODEL, without losing a query.

    It returns once they serve; if they are refused, it says why, and the server goes on with those of before.
    """
    model = options.pop("model")
    click.echo(f"{model}: version {load(model, **options)} serves")

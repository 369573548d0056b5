"""`explain-model`: what was found in a model of one's own."""

from __future__ import annotations

import click

from deeprecsys.api.explain import explain_model
from deeprecsys.cli import options as opt
from deeprecsys.cli.help import command
from deeprecsys.cli.output import emit


@command("explain-model")
@click.argument("model", metavar="MODEL")
@opt.weights
@opt.example
@opt.json_file
def explain_command(model: str, weights: str | None, example: str | None, json: str | None) -> None:
    """Say what was found in a model of your own.

    Its tables, what is per item and what per query, what is computed once, what was not recognised and why,
    and the memory that it takes.
    """
    found = explain_model(model, weights=weights, example=example)
    emit(str(found), found.to_json(), json)

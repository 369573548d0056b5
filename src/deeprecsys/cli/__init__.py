"""The command line: the only place that reads configuration files, prints, and exits."""

from __future__ import annotations

import sys

import click

from deeprecsys.cli import errors
from deeprecsys.cli.bench import bench_command, capacity_command
from deeprecsys.cli.explain import explain_command
from deeprecsys.cli.load import load_command
from deeprecsys.cli.models import models
from deeprecsys.cli.paper import paper
from deeprecsys.cli.report import report
from deeprecsys.cli.serve import serve_command
from deeprecsys.cli.simulate import simulate_command
from deeprecsys.cli.tune import profile_command, quality_command, tune_command
from deeprecsys.core.errors import unknown
from deeprecsys.version import VERSION


class _Group(click.Group):
    """A group that names the nearest command when asked for one that does not exist."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            raise unknown("command", name, self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order of a first use, not of the alphabet


_SETTINGS = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
    "auto_envvar_prefix": "DEEPRECSYS",
}


@click.group(cls=_Group, context_settings=_SETTINGS)
@click.version_option(VERSION, prog_name="deeprecsys", allow_from_autoenv=False)
def cli() -> None:
    """Serve recommendation models at the highest load a tail-latency target allows, and see why.

    Start with `deeprecsys models`, then `deeprecsys tune wnd --sla-ms 25`.

    An option may also come from a TOML file (--config), or from the environment: DEEPRECSYS_SERVE_SLA_MS is
    --sla-ms of `serve`. The command line wins, then the environment.

    \b
    Completion in bash; zsh_source and fish_source in other shells:
      eval "$(_DEEPRECSYS_COMPLETE=bash_source deeprecsys)"
    """


for _command in (
    models,
    explain_command,
    profile_command,
    bench_command,
    capacity_command,
    tune_command,
    quality_command,
    simulate_command,
    serve_command,
    load_command,
    paper,
    report,
):
    cli.add_command(_command)


def main() -> None:
    """The `deeprecsys` command."""
    sys.exit(errors.run(lambda: cli.main(prog_name="deeprecsys", standalone_mode=False)))

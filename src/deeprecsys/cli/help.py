"""What `--help` shows: options in groups, examples, whole summaries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

GROUPS: dict[str, tuple[str, ...]] = {
    "Model": ("weights", "rows_scale", "name", "precision", "seed", "locality"),
    "Load": ("rate", "duration", "queries", "arrivals", "sizes", "trace", "url", "abandon"),
    "Target": ("sla_ms", "target", "quantile"),
    "Engine and workers": ("from_run", "profile", "engine", "workers", "threads", "isa", "spares"),
    "Accelerator": ("gpu", "gpus", "offload_above"),
    "Policy": ("policy", "batch_size", "retune"),
    "Search": ("method", "budget", "margin", "full", "quick", "profiles"),
    "Queries": ("max_items", "max_queue", "max_queue_mb", "not_finite", "shed_late"),
    "Network": ("host", "http_port", "grpc_port", "face_test", "drain"),
    "New weights": ("admin", "admin_token", "watch", "version", "keep_tables", "keep", "token"),
    "Output": ("save", "trace_out", "verbose", "json", "out"),
}
"""Names of options by heading, in this order; others stand under `OTHER`."""
OTHER = "Other"

EXAMPLES: dict[str, tuple[str, ...]] = {
    "models": ("deeprecsys models", "deeprecsys models --json models.json"),
    "explain-model": (
        "deeprecsys explain-model ranker.onnx",
        "deeprecsys explain-model ranker.py:Ranker --weights ranker.pt --example inputs.pt",
    ),
    "profile": (
        "deeprecsys profile din --save din.json",
        "deeprecsys profile ranker.onnx --budget 60 --save ranker.json",
    ),
    "bench": (
        "deeprecsys bench ncf --rate 500 --batch-size 128",
        "deeprecsys bench --from runs/wnd",
        "deeprecsys bench wnd --url http://localhost:8000 --rate 100",
    ),
    "capacity": (
        "deeprecsys capacity ncf --batch-size 128",
        "deeprecsys capacity wnd --policy coalescing --sla-ms 25",
    ),
    "tune": (
        "deeprecsys tune wnd --sla-ms 25 --out runs/wnd",
        "deeprecsys tune ranker.onnx --sla-ms 50 --quantile 99 --trace day.csv",
        "deeprecsys tune din --profile din.json --method live",
    ),
    "quality": ("deeprecsys quality dlrm-rmc1 --precision int8",),
    "simulate": (
        "deeprecsys simulate --profile din.json --workers 40 --sla-ms 100",
        "deeprecsys simulate --from runs/wnd --rate 200",
    ),
    "serve": (
        "deeprecsys serve --from runs/wnd",
        "deeprecsys serve ranker.onnx --sla-ms 50 --host 0.0.0.0",
        "deeprecsys serve model.py:Ranker --weights ranker.safetensors --admin weights",
    ),
    "load": ("deeprecsys load Ranker --version 8", "deeprecsys load Ranker --version 7 --keep"),
    "paper": ("deeprecsys paper --quick", "deeprecsys paper 11 13 --out figures"),
    "report": ("deeprecsys report runs/wnd", "deeprecsys report runs/monday runs/tuesday --out weeks"),
}
"""Two or three uses of each command."""


class Command(click.Command):
    """A command whose help has its options in groups, and examples."""

    def get_short_help_str(self, limit: int = 45) -> str:
        """The first sentence of the help, whole."""
        return " ".join((self.help or "").partition("\n\n")[0].split()).removesuffix(".")

    def grouped(self, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
        """How each option is written, and its text, by heading; headings without options are left out."""
        by_heading: dict[str, list[tuple[str, str]]] = {heading: [] for heading in (*GROUPS, OTHER)}
        heading_of = {name: heading for heading, names in GROUPS.items() for name in names}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Option) and (record := parameter.get_help_record(ctx)):
                by_heading[heading_of.get(parameter.name or "", OTHER)].append(record)
        return {heading: records for heading, records in by_heading.items() if records}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, records in self.grouped(ctx).items():
            with formatter.section(heading):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if examples := EXAMPLES.get(self.name or ""):
            with formatter.section("Examples"):
                formatter.write("".join(f"  {line}\n" for line in examples))


def command(name: str) -> Callable[[Callable[..., Any]], Command]:
    """`click.command` of a `Command`."""
    return click.command(name, cls=Command)

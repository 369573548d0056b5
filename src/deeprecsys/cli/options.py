"""The options, each defined once: the same name means the same in every command."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from deeprecsys.api.policies import FORMS
from deeprecsys.core.errors import InputError, unknown
from deeprecsys.core.target import LEVELS
from deeprecsys.engine.isa import DEFAULT, NAMES

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]


def _group(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one decorator, in the order in which help shows them."""
    return lambda f: functools.reduce(lambda g, option: option(g), reversed(options), f)


model = _group(
    click.argument("model_name", metavar="MODEL"),
    click.option("--weights", type=click.Path(path_type=Path), metavar="FILE",
                 help="Weights of a model of your own (a class): .safetensors, or .pt with tensors alone."),
    click.option("--rows-scale", type=float, default=1.0, show_default=True, metavar="X",
                 help="Factor on the rows of every embedding table."),
)  # fmt: skip

_ENGINES = "What scores a batch: eager, compiled, null, wait:BATCH_MS[,ITEM_MS], or module:attribute."
_scoring = _group(
    click.option("--precision", type=click.Choice(["fp32", "bf16", "int8"]), default="fp32",
                 show_default=True, help="Lowest precision that the engine may compute in."),
    click.option("--workers", type=int, metavar="K",
                 help="Worker processes.  [default: one per usable core]"),
    click.option("--isa", type=click.Choice(list(NAMES)), default=DEFAULT, show_default=True,
                 help="Hold the engine's libraries to narrower vectors, those that let themselves."),
)  # fmt: skip
_data = _group(
    click.option("--locality", default="zipf:0.9", show_default=True, metavar="NAME[:S]",
                 help="How often the same embedding rows are asked for: uniform or zipf:S."),
    click.option("--seed", type=int, default=0, show_default=True, metavar="N",
                 help="Seed of tables, weights, features, sizes and arrivals."),
)  # fmt: skip

node = _group(
    click.option("--engine", default="eager", show_default=True, metavar="NAME", help=_ENGINES),
    _scoring,
    click.option("--threads", type=int, default=1, show_default=True, metavar="T",
                 help="Compute threads per worker."),
    _data,
)  # fmt: skip

nodes = _group(
    click.option("--engine", "engines", multiple=True, metavar="NAME",
                 help=_ENGINES + " Several may be given; the best is taken."
                      "  [default: all that compute in a precision allowed]"),
    _scoring,
    click.option("--threads", "threads_tried", type=int, multiple=True, default=(1,), show_default=True,
                 metavar="T", help="Compute threads per worker. Several may be given; the best is taken."),
    _data,
)  # fmt: skip

lower = _group(
    click.option("--engine", default="compiled", show_default=True, metavar="NAME", help=_ENGINES),
    click.option("--precision", type=click.Choice(["bf16", "int8", "fp32"]), default="bf16",
                 show_default=True, help="Lowest precision that the engine may compute in."),
    click.option("--workers", type=int, metavar="K",
                 help="Worker processes.  [default: one per usable core]"),
    _data,
)  # fmt: skip

accelerator = _group(
    click.option("--gpu", metavar="ENGINE",
                 help="A second device beside the CPU workers: cuda, emulated:FILE (a profile, replayed), or "
                      "emulated:gtx-1080-ti (from this CPU's batch times and the published speed-ups)."),
    click.option("--gpus", type=int, default=1, show_default=True, metavar="K",
                 help="How many accelerators."),
)  # fmt: skip

sizes = _group(
    click.option("--sizes", metavar="NAME[:ARGS]",
                 help="Query sizes: production, mlperf, ribbon, lognormal, normal[:mean,std,cap], fixed:N, "
                      "mix:NAME@SECONDS,...  [default: production]"),
)  # fmt: skip

workload = _group(
    click.option("--arrivals", metavar="NAME[:ARGS]",
                 help="Arrival process: poisson, constant, diurnal[:ratio,period_s], "
                      "bursts[:ratio,duty,period_s].  [default: poisson]"),
    sizes,
    click.option("--trace", "trace_file", type=click.Path(path_type=Path), metavar="FILE",
                 help="Arrivals and sizes from a file of (arrival_s, size) rows, scaled to the rate."),
)  # fmt: skip

target = _group(
    click.option("--sla-ms", type=float, metavar="MS", help="Latency target in milliseconds."),
    click.option("--target", "level", type=click.Choice(list(LEVELS)), default=None,
                 help="The paper's target for this model instead: medium is its published value, "
                      "low half of it, high half as much again.  [default: medium]"),
    click.option("--quantile", type=float, default=95.0, show_default=True, metavar="PERCENT",
                 help="Share of queries that must be within the target, in percent."),
)  # fmt: skip

policy = _group(
    click.option("--policy", "policy_name", default="deeprecsched", show_default=True, metavar="NAME[:ARG]",
                 help=f"How queries become batches: {FORMS}."),
    click.option("--batch-size", type=int, metavar="B",
                 help="Most items per batch.  [default: the static baseline, largest query / workers; "
                      "the largest query for triton and bentoml, which do not cut]"),
    click.option("--offload-above", type=int, metavar="N",
                 help="Send queries of more than N items to the accelerator."),
)  # fmt: skip

search = _group(
    click.option("--budget", type=float, metavar="S",
                 help="Seconds of trials that the search may take.  [default: by the target]"),
)  # fmt: skip

_json = click.option("--json", "json_file", metavar="FILE",
                     help="Write the result as JSON; - for standard output.")  # fmt: skip
config = click.option("--config", "config_file", type=click.Path(path_type=Path), metavar="FILE",
                       is_eager=True, expose_value=False,
                       callback=lambda ctx, _p, value: _defaults(ctx, value),
                       help="Defaults for these options from a TOML file; keys are their names.")  # fmt: skip

output = _group(
    _json,
    click.option("--out", "out_dir", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
                 help="Keep the result and every measurement, as it is made, in a directory."),
    config,
)  # fmt: skip


def _defaults(ctx: click.Context, file: Path | None) -> None:
    """Take defaults from a TOML file. The command line wins over them."""
    if file is None:
        return
    try:
        values = tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise InputError(f"--config {file}: expected a TOML file, got: {e}") from e
    names = {p.opts[-1].lstrip("-"): p.name for p in ctx.command.params if isinstance(p, click.Option)}
    known = {k: v for k, v in names.items() if k not in ("config", "help") and v}
    defaults: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("_", "-")
        if name not in known:
            raise unknown(f"key in {file}", key, known)
        if isinstance(value, dict | list):
            raise InputError(f"{file} {key}: expected one value, got {value!r}")
        defaults[known[name]] = value
    ctx.default_map = {**(ctx.default_map or {}), **defaults}

"""The options, each defined once: the same name means the same in every command and in the Python API."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from deeprecsys.api.experiment import LOCALITY
from deeprecsys.api.policies import FORMS
from deeprecsys.core.errors import InputError, shown, unknown
from deeprecsys.core.target import LEVELS
from deeprecsys.engine import FASTEST, PRECISIONS
from deeprecsys.engine.isa import DEFAULT, NAMES
from deeprecsys.files import check_place, first_line, read_text
from deeprecsys.workload.lengths import HEAVY

MOST_CONFIG_BYTES = 1 << 20
_TAKEN = (bool, int, float, str)
Option = Callable[[Any], Any]
FILE = click.Path(path_type=Path)


def group(*options: Option) -> Option:
    """Several options as one decorator, in the order in which help shows them."""
    return lambda f: functools.reduce(lambda g, option: option(g), reversed(options), f)


def option(name: str, metavar: str | None, text: str, **more: Any) -> Option:
    """An option that shows its default, where it has one."""
    return click.option(*name.split(), metavar=metavar, help=text, show_default="default" in more, **more)


weights = option("--weights", "FILE", "Weights of a class or module of your own: .safetensors, or .pt "
                 "with tensors alone.", type=FILE)  # fmt: skip
example = option("--example", "FILE", "Inputs from which a PyTorch module of your own is exported: .pt "
                 "with tensors alone, .safetensors or .npz.", type=FILE)  # fmt: skip
rows_scale = option("--rows-scale", "X", "Factor on the rows of every embedding table.", type=float,
                    default=1.0)  # fmt: skip
model = group(click.argument("model", metavar="MODEL"), weights, example, rows_scale)
from_run = option("--from from_run", "RUN", "Take model, engine, policy, target and load from a run of "
                  "`tune`: its directory or its JSON. Options given beside it win.", type=FILE)  # fmt: skip

_ENGINES = ("What scores a batch: eager, compiled, null, wait:BATCH_MS[,ITEM_MS], FILE.py:Class, "
            "module:Class, or an installed one.")  # fmt: skip
_THREADS = "Compute threads per worker."
engine = option("--engine", "NAME", _ENGINES, default=FASTEST)
threads = option("--threads", "T", _THREADS, type=int, default=1)
workers = option("--workers", "K", "Worker processes.  [default: one per usable core]", type=int)
isa = option("--isa", None, "Hold the engine's libraries to narrower vectors, those that let themselves.",
             type=click.Choice(list(NAMES)), default=DEFAULT)  # fmt: skip
seed = option("--seed", "N", "Seed of tables, weights, features, sizes and arrivals.", type=int, default=0)
data = group(
    option("--locality", "NAME[:S]", "How often the same embedding rows are asked for: uniform or zipf:S.",
           default=LOCALITY),
    option("--lookups", "LAW[@ITEM,QUERY]", "How many ids the rows of jagged inputs have: lognormal:SIGMA, "
           "geometric, equal or file:PATH; shares of its variance that an item's inputs, and a query's "
           "items, have in common.", default=HEAVY),
    seed,
)  # fmt: skip


def precision(default: str = "fp32") -> Option:
    return option("--precision", None, "Lowest precision that rows are stored and the engine may compute in.",
                  type=click.Choice(list(PRECISIONS)), default=default)  # fmt: skip


node = group(engine, precision(), workers, isa, threads, data)
nodes = group(
    option("--engine", "NAME", f"{_ENGINES} Several may be given; the best is taken.  "
           "[default: all that compute in a precision allowed]", multiple=True),
    precision(),
    workers,
    isa,
    option("--threads", "T", f"{_THREADS} Several may be given; the best is taken.", type=int, multiple=True,
           default=(1,)),
    data,
)  # fmt: skip

accelerator = group(
    option("--gpu", "ENGINE", "A second device beside the CPU workers: cuda, emulated:FILE (a profile, "
           "replayed), or emulated:gtx-1080-ti (from this CPU's batch times and the published speed-ups)."),
    option("--gpus", "K", "How many accelerators.", type=int, default=1),
)  # fmt: skip

sizes = option("--sizes", "NAME[:ARGS]", "Query sizes: production, mlperf, ribbon, lognormal, "
               "normal[:mean,std,cap], fixed:N, mix:NAME@SECONDS,...  [default: production]")  # fmt: skip
workload = group(
    option("--arrivals", "NAME[:ARGS]", "Arrival process: poisson, constant, diurnal[:ratio,period_s], "
           "bursts[:ratio,duty,period_s].  [default: poisson]"),
    sizes,
    option("--trace", "FILE", "Arrivals and sizes from a file of (arrival_s, size) rows, scaled to the rate.",
           type=FILE),
)  # fmt: skip

target = group(
    option("--sla-ms", "MS", "Latency target in milliseconds.", type=float),
    option("--target", None, "The paper's target for this model instead: medium is its published value, "
           "low half of it, high half as much again.  [default: medium]", type=click.Choice(list(LEVELS))),
    option("--quantile", "PERCENT", "Share of queries that must be within the target, in percent.",
           type=float, default=95.0),
)  # fmt: skip

_POLICY = f"How queries become batches: {FORMS}."
offload_above = option("--offload-above", "N", "Send queries of more than N items to the accelerator.",
                       type=int)  # fmt: skip
_BATCH_SIZE = ("Most items per batch.  [default: the static baseline, largest query / workers; the largest "
               "query for triton and bentoml, which do not cut]")  # fmt: skip
policy = group(
    option("--policy", "NAME[:ARG]", _POLICY, default="deeprecsched"),
    option("--batch-size", "B", _BATCH_SIZE, type=int),
    offload_above,
)
run_policy = group(
    option("--policy", "NAME[:ARG]", f"{_POLICY}  [default: deeprecsched, or that of --from]"),
    option("--batch-size", "B", _BATCH_SIZE, type=int),
    offload_above,
)
searched_policy = group(
    option("--policy", "NAME[:ARG]", f"{_POLICY}  [default: the best is searched; with --rate deeprecsched]"),
    option("--batch-size", "B", "Most items per batch.  [default: searched; with --policy or --rate the "
           "static baseline, largest query / workers]", type=int),
    offload_above,
)  # fmt: skip
pinned_policy = group(
    option("--policy", "NAME[:ARG]", f"{_POLICY}  Pinned.  [default: tuned on the profile]"),
    option("--batch-size", "B", "Most items per batch, pinned.  [default: tuned]", type=int),
    option("--offload-above", "N", "Send queries of more than N items to the accelerator, pinned.  "
           "[default: tuned]", type=int),
)  # fmt: skip

budget = option("--budget", "S", "Seconds of trials that the search may take.  [default: by the target]",
                type=float)  # fmt: skip
sustain = group(
    option("--margin", "PERCENT", "How much longer batches may take at the rate found.  [default: the "
           "machine's own drift meanwhile, 3 to 25]", type=float),
    option("--full", None, "Run every point as long as the rule for a sustained capacity asks, however "
           "long that is.", is_flag=True),
)  # fmt: skip
rate = option("--rate", "QPS", "Offered rate.", type=float)
length = group(
    option("--duration", "S", "Seconds of arrivals.", type=float),
    option("--queries", "N", "How many queries instead.", type=int),
)


def written_file(name: str, text: str, dash: bool = False, hidden: bool = False) -> Option:
    """An option that names a file to write, which is checked before anything else is done.

    Args:
        dash: whether - stands for standard output.
        hidden: whether help leaves it out.
    """

    def check(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
        if value is not None and not (dash and value == "-"):
            check_place(f"{name} {value}", Path(value))
        return value

    return option(name, "FILE", text, callback=check, is_eager=True, hidden=hidden)


json_file = written_file("--json", "Write the result as JSON; - for standard output.", dash=True)
config = click.option("--config", "config_file", type=FILE, metavar="FILE",
                      is_eager=True, expose_value=False,
                      callback=lambda ctx, _p, value: _defaults(ctx, value),
                      help="Defaults for these options from a TOML file; keys are their names.")  # fmt: skip
output = group(
    json_file,
    option("--out", "DIR", "Keep the result and every measurement, as it is made, in a directory.",
           type=click.Path(file_okay=False, path_type=Path)),
    config,
)  # fmt: skip


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a command; beside `--from` without their defaults, which give way to the run's."""
    if options.get("from_run") is None:
        return options
    source = click.get_current_context().get_parameter_source
    return {k: v for k, v in options.items() if source(k) is not ParameterSource.DEFAULT}


def _defaults(ctx: click.Context, file: Path | None) -> None:
    """Take defaults from a TOML file. The command line wins over them."""
    if file is None:
        return
    field = f"--config {file}"
    text = read_text(field, file, "a TOML file", MOST_CONFIG_BYTES)
    try:
        found = tomllib.loads(text)
    except RecursionError as e:
        raise InputError(f"{field}: expected a TOML file of one level, got one that is nested deeply") from e
    except ValueError as e:  # also a number of thousands of digits
        raise InputError(f"{field}: expected a TOML file, got: {first_line(e)}") from e
    options = {
        p.opts[-1].lstrip("-"): p for p in ctx.command.params if isinstance(p, click.Option) and p.name
    }
    known = {name: p for name, p in options.items() if name not in ("config", "help")}
    defaults: dict[str, Any] = {}
    for key, value in found.items():
        name = key.replace("_", "-")
        if name not in known:
            raise unknown(f"key in {file}", key, known)
        option = known[name]
        several = value if option.multiple and isinstance(value, list) else [value]
        values = [_value(f"{file} {key}", option, v) for v in several]
        defaults[str(option.name)] = values if option.multiple else values[0]
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def _value(field: str, option: click.Option, value: Any) -> Any:
    """A value of a configuration file, of the type that the option takes.

    Raises:
        InputError: a number for a file, a date, a list: the option's text form could not mean it.
    """
    kind = type(value) if type(value) in _TAKEN else None
    if option.is_flag:
        expected, fits = "true or false", kind is bool
    elif isinstance(option.type, click.types.IntParamType):
        expected, fits = "a whole number", kind is int and abs(value) < 1 << 63
    elif isinstance(option.type, click.types.FloatParamType):
        expected, fits = "a number", kind is float or (kind is int and abs(value) < 1 << 63)
    else:
        expected, fits = "a text", kind is str and "\0" not in value
    if not fits:
        raise InputError(f"{field}: expected one value, {expected}, got {shown(value)}")
    return value

"""`serve`: a network server for one or several models."""

from __future__ import annotations

from typing import Any

import click

from deeprecsys.api.serve import DRAIN_S, FACE_TEST_S, PORTS, serve
from deeprecsys.cli import options as opt
from deeprecsys.cli.help import command
from deeprecsys.core.allowance import MARGIN
from deeprecsys.serve.metrics.logs import log_as_json

_COUNT, _PORT = click.IntRange(1), click.IntRange(0, 65535)


@command("serve")
@click.argument("model", metavar="[MODEL]...", nargs=-1)
@opt.from_run
@opt.weights
@opt.example
@opt.option(
    "--name",
    "NAME",
    "What clients ask for; one for each model, in their order.  [default: its class's name, or its file's "
    "without folder and suffix]",
    multiple=True,
)
@opt.rows_scale
@opt.target
@opt.sizes
@opt.option(
    "--profile",
    "FILE",
    "Batch times measured before, with their engine and threads; one for each "
    "model. What is missing is measured first.",
    type=opt.FILE,
    multiple=True,
)
@opt.option("--engine", "NAME", "What scores a batch.  [default: the profile's, or compiled]")
@opt.precision()
@opt.workers
@opt.threads
@opt.isa
@opt.accelerator
@opt.option(
    "--spares", "N", "Started workers that stand by for one that dies.", type=click.IntRange(0), default=1
)
@opt.pinned_policy
@opt.option(
    "--retune/--no-retune",
    None,
    "Follow rate and mix of sizes with another policy while serving.",
    default=True,
)
@opt.option("--max-items", "N", "Items of the largest query.  [default: the largest of --sizes]", type=int)
@opt.option("--max-queue", "N", "Queries of one model that may be open at once.", type=_COUNT, default=1024)
@opt.option(
    "--max-queue-mb", "MB", "Features and scores of one model's open queries.", type=_COUNT, default=128
)
@opt.option(
    "--not-finite",
    None,
    "What becomes of scores that are infinite or NaN.",
    type=click.Choice(["error", "pass"]),
    default="error",
)
@opt.option(
    "--shed-late",
    None,
    "Refuse queries that would be late early on. By default they are answered late until the target's "
    "quantile leaves room for no more of them.",
    is_flag=True,
)
@opt.option("--host", None, "Address to listen on; 0.0.0.0 for all.", default="127.0.0.1")
@opt.option("--http-port", "N", "0 takes any that is free.", type=_PORT, default=PORTS[0])
@opt.option("--grpc-port", "N", "0 takes any that is free.", type=_PORT, default=PORTS[1])
@opt.option(
    "--margin",
    "PERCENT",
    "By how much longer batches may take while the announced load still meets the target.  [default: the "
    f"machine's drift that the run of --from measured, {100 * MARGIN:g} % without one]",
    type=float,
)
@opt.option(
    "--face-test",
    "S",
    "Seconds of load through the loopback socket, at start, that measure what the network face takes; 0 "
    "leaves it out of the announced load.",
    type=float,
    default=FACE_TEST_S,
)
@opt.option(
    "--admin",
    "DIR",
    "Let requests load and unload weights (safetensors) of this directory, and write rows.  [default: off]",
    type=opt.FILE,
)
@opt.option(
    "--admin-token",
    "FILE",
    "Token that such requests must carry (Authorization: Bearer). Needed where other machines reach --host.",
    type=opt.FILE,
)
@opt.option(
    "--watch", "DIR", "Load new versions as they appear, MODEL/VERSION/weights.safetensors.", type=opt.FILE
)
@opt.option("--drain", "S", "Seconds to answer open queries in, after SIGTERM.", type=float, default=DRAIN_S)
@opt.seed
@opt.config
def serve_command(**options: Any) -> None:
    """Serve MODELs over the network: Open Inference Protocol on HTTP and gRPC.

    Measures batch times or reads them from --profile, finds the policy that carries the most queries within
    the target, prints it with the load that it carries, and serves until SIGTERM, which drains. That load
    meets the target with nothing refused, even if batches take --margin longer; the network face is counted,
    with the kernel's work for it and without the clients'. Among several models, weights are given as
    MODEL@FILE.
    """
    log_as_json()
    serve(**opt.given(options), announce=click.echo, ready=click.echo)

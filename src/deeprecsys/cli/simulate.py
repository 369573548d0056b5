"""`simulate`: what a node would do, from a latency profile alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deeprecsys.api.simulate import simulate
from deeprecsys.cli import options as opt
from deeprecsys.cli.help import command
from deeprecsys.cli.output import emit_result, report_on


@command("simulate")
@opt.from_run
@opt.option(
    "--profile",
    "FILE",
    "Batch times s(b), as `deeprecsys profile` writes them, or by hand.",
    type=opt.FILE,
)
@opt.option(
    "--workers", "K", "Workers of the node.  [default: the most that were busy in the profile]", type=int
)
@opt.rate
@opt.length
@opt.accelerator
@opt.searched_policy
@opt.target
@opt.workload
@opt.seed
@opt.output
def simulate_command(json: str | None, out: Path | None, **options: Any) -> None:
    """Run the scheduler in virtual time on a latency profile, and set its bounds beside it.

    With --rate one trial is run at that rate, of 100000 queries unless --queries or --duration says
    otherwise; without, the capacity is searched, and without a policy that of the best one, with the static
    baseline's beside it. Batch times are those of the profile, with their spread and
    with what they cost while other workers are busy.
    """
    emit_result(simulate(**opt.given(options), out=out), json)
    report_on(out)

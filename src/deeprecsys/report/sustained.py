"""How sure a capacity is, and what it gained, in words."""

from __future__ import annotations

from deeprecsys.report import documents as docs
from deeprecsys.report import format as f
from deeprecsys.report import tables


def how_sure(s: docs.SustainedDocument | None) -> str:
    """What was seen of a rate: sustained, met for some seconds, or not met; empty where that is not known."""
    if s is None or s.verdict is None:
        return ""
    queries = f"{f.count(s.queries)} queries"
    high = (s.miss_interval or (None, None))[1]
    late = f"{f.share(s.miss_rate)} late" + ("" if high is None else f" (at most {f.share(high)})")
    if s.verdict == "sustained":
        times = f"{f.count(s.relaxation_times)} relaxation times of the queue"
        return f"sustained for {f.seconds(s.seconds)}: {queries}, {times}, {late}"
    if s.verdict == "not met":
        return f"not met in {f.seconds(s.seconds)}: {late}"
    lacks = f"; lacks {', '.join(s.lacks)}" if s.lacks else ""
    return f"met for {f.seconds(s.seconds)}, undecided: {queries}, {late}{lacks}"


def margin_words(report: docs.NearDocument) -> str:
    """The limit today, and how far below it the rate is; empty where that is not known."""
    if report.limit_today_qps is None:
        return ""
    low, high = report.limit_interval_qps or (None, None)
    words = f"limit today {f.figure(report.limit_today_qps)} queries/s"
    if low is not None:
        cut = report.limit_bound_qps is not None
        why = "" if high is not None else ": the trials do not show its upper end"
        words += f" ({f.interval(low, high)}{why}{', cut off at the bound' * cut})"
    if report.margin_percent is None:
        return words
    whose = "as asked" if report.margin_chosen else "the machine's drift of " + drift(report)
    return f"{words}; batches may take {report.margin_percent:.3g} % longer ({whose})"


def simulator_words(report: docs.NearDocument) -> str:
    """How far the simulator was from the run that was held; empty where that is not known."""
    if not isinstance(report, docs.TuneReport) or report.simulator_error is None:
        return ""
    words = f" In the run itself the simulator's p95 is {f.signed_share(report.simulator_error)} off"
    if report.paced_simulator_error is not None:
        words += f", {f.signed_share(report.paced_simulator_error)} at that run's mean speed"
    return f"{words}; near the limit a speed that changes for seconds makes longer lines than simulated."


def drift(report: docs.NearDocument) -> str:
    """The drift seen meanwhile, in words."""
    return "unknown size" if report.drift_percent is None else f"{report.drift_percent:.3g} %, 3 % at least"


def gains(report: docs.TuneReport) -> list[str]:
    """Both gains, of limits and not of the rates that ran, with their intervals."""
    found = []
    for name, value, interval in (
        ("engine", report.engine_gain, report.engine_gain_interval),
        ("scheduling", report.scheduling_gain, report.scheduling_gain_interval),
    ):
        if value is not None:
            low, high = interval or (None, None)
            between = f" ({f.ratio(low)} to {f.ratio(high)})" if low and high and low < high else ""
            found.append(f"{name} {f.ratio(value)}{between}")
    return [*found[:-1], f"{found[-1]} by today's limits"] if found else []


def why(report: docs.TuneReport) -> str:
    """One sentence: what the tuned point gains by."""
    tuned, static = report.tuned, report.static
    if tuned is None:
        return ""
    usual = f", the usual is {f.count(static.batch_size)}" if static and static.batch_size else ""
    if report.kept_static:
        how = f"nothing proved better than the usual batch of {f.count(tuned.batch_size)} items"
    elif tuned.offload_above is not None:
        how = f"queries above {f.count(tuned.offload_above)} items go to the accelerator"
    elif tuned.policy == "coalescing":
        how = f"queries share batches of up to {f.count(tuned.batch_size)} items"
    elif tuned.policy == "adaptive":
        how = (
            f"queries are cut when a worker is free, into batches of up to {f.count(tuned.batch_size)} items"
        )
    elif tuned.policy in tables.FIXED:
        how = f"queries are cut into batches of {f.count(tuned.batch_size)} items{usual}"
    else:
        how = f"the policy {tuned.policy}"
    return "; ".join(filter(None, (", ".join(gains(report)), how)))


def next_command(report: docs.TuneReport, folder: str = "") -> str:
    """What to do with the tuned point, which is kept in a run directory."""
    command = f"deeprecsys serve {report.model or 'MODEL'} --from"
    return f"{command} {folder}" if folder else f"{command} RUN  (the directory of --out)"

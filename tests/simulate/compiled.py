"""Trials by the compiled path alone, which must be able to run them."""

from __future__ import annotations

from typing import Any

from deeprecsys.core.runlog import RunLog
from deeprecsys.simulate.driver import VirtualTrial
from deeprecsys.simulate.fast import CompiledTrial, compiled_trial


def trial(
    policy: Any,
    arrival_s: Any,
    size: Any,
    service: Any,
    workers: Any,
    *,
    limits: Any = None,
    rate_qps: Any = None,
) -> CompiledTrial:
    """The trial, which must be one that is compiled."""
    found = compiled_trial(policy, VirtualTrial.of(arrival_s, size, service, workers, rate_qps), limits)
    assert found is not None, "the compiled path cannot run this trial"
    return found


def simulate_fast(*args: Any, seed: int = 0, warmup_s: float = 0.0, **rest: Any) -> RunLog:
    """Arguments and result as of `simulate.driver.simulate`."""
    return trial(*args, **rest).run(seed, warmup_s)


def recorded(
    *args: Any, seed: int = 0, warmup_s: float = 0.0, **rest: Any
) -> tuple[RunLog, list[tuple[Any, ...]]]:
    """The run log, and of every batch its query, items, device, worker, start and finish."""
    log, batches = trial(*args, **rest).recorded(seed, warmup_s)
    return log, list(zip(*(column.tolist() for column in batches), strict=True))

"""How often a worker's start is tried, and what a driver forgets."""

from __future__ import annotations

import pytest

from deeprecsys.core.device import Limits
from deeprecsys.core.dispatcher import Dispatcher
from deeprecsys.core.events import Adopt, Retire
from deeprecsys.core.policy import CPU, Static
from deeprecsys.node.driver import Driver
from deeprecsys.node.runtime.workers import MAX_FAILED_STARTS, MAX_KILLED_STARTS, Workers


@pytest.mark.parametrize(("by_machine", "starts"), [(True, MAX_KILLED_STARTS), (False, MAX_FAILED_STARTS)])
def test_a_new_version_is_given_up_later_where_its_workers_are_killed(by_machine: bool, starts: int) -> None:
    workers = Workers({CPU: [[0]]}, lambda _device, _worker: [], 1)
    try:
        workers.renew()
        device, pauses = workers._devices[CPU], []
        for _ in range(starts):
            assert not workers.renewal_problem
            workers._start_failed(device, "killed by signal 9", by_machine=by_machine)
            pauses.append(device.next_start_s)
        assert workers.renewal_problem == (
            f"a cpu worker cannot start: killed by signal 9, after {starts} starts"
        )
        assert pauses == sorted(pauses)
    finally:
        workers.close()


def test_a_driver_forgets_the_batches_of_a_version_that_is_retired() -> None:
    workers = Workers({CPU: [[0]]}, lambda _device, _worker: [], 1)
    try:
        driver = Driver(Dispatcher(Static(4), {CPU: 1}, Limits(4, 100, 4)), workers, None)  # type: ignore[arg-type]
        driver.handle(Adopt(5, Static(4), None), 0.0)
        driver._longest |= {(CPU, 0): (1.0, 1), (CPU, 5): (1.0, 1)}
        driver.handle(Retire(5), 0.0)
        assert set(driver._longest) == {(CPU, 0)}
    finally:
        workers.close()

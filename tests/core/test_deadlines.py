"""Deadlines: what is let in, what is dropped, and what the target's quantile leaves room for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeprecsys.core.deadlines import (
    LATEST,
    LATEST_S,
    MOST_MARGIN,
    SHED_LATE_SPARE,
    WINDOW,
    Forecast,
    LateBudget,
    Readiness,
    batch_seconds,
)
from deeprecsys.core.dispatcher import Dispatcher
from deeprecsys.core.events import Adopt, Arrive, Cancel, Complete, Finish, Lost, Ready, Refused, Shed, Start
from deeprecsys.core.policy import CPU, GPU, Coalescing, DeepRecSched, Static
from deeprecsys.core.policy.base import PolicyState
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.core.query import Query

PER_ITEM_S = 0.001


def forecast(shed_late=False):
    """Batches that take a millisecond per item."""
    return Forecast([PER_ITEM_S * n for n in range(101)], None, False, LateBudget(0.05, shed_late))


def node(workers=1, policy=None, shed_late=False):
    d = Dispatcher(policy or Static(10), {CPU: workers})
    known = forecast(shed_late)
    d.handle(Adopt(0, d.policy, known), 0.0)
    return d, known.budget


def query(i, size=10, at=0.0, within=0.1, firm=True, **more):
    return Query(i, size, at, deadline_s=at + within, firm=firm, **more)


def started(commands):
    return [c.batch for c in commands if isinstance(c, Start)]


def test_a_query_that_cannot_make_its_deadline_is_refused_at_once():
    d, _ = node()
    d.handle(Arrive(query(0, size=60)), 0.0)
    assert d.late_by_s(query(1, size=20), 0.0) < 0, "80 ms of work, 10 % kept back, in 100 ms"
    assert d.late_by_s(query(1, size=60), 0.0) == pytest.approx(0.03)
    (shed,) = d.handle(Arrive(query(1, size=60)), 0.0)
    assert isinstance(shed, Shed)
    assert shed.late
    assert "deadline by 30 ms" in shed.reason
    d.check()


def test_work_that_is_done_counts_no_more_and_running_work_in_part():
    d, _ = node(policy=Static(100))
    (batch,) = started(d.handle(Arrive(query(0, size=80)), 0.0))
    assert d.late_by_s(query(1, size=20), 0.0) == pytest.approx(0.01)
    assert d.late_by_s(query(1, size=20, at=0.04), 0.04) == pytest.approx(-0.03)
    d.handle(Finish(batch), 0.08)
    assert d.late_by_s(query(1, size=20, at=0.08), 0.08) == pytest.approx(-0.07)


def test_several_workers_share_a_query_and_the_line():
    d, _ = node(workers=4)
    assert d.late_by_s(query(0, size=80), 0.0) == pytest.approx(0.02 - 0.09)
    d.handle(Arrive(query(0, size=80)), 0.0)
    assert d.late_by_s(query(1, size=80), 0.0) == pytest.approx(0.04 - 0.09)


def test_what_cannot_meet_its_deadline_any_more_is_dropped_when_its_turn_comes():
    d, _ = node()
    (batch,) = started(d.handle(Arrive(query(0)), 0.0))
    d.handle(Arrive(query(1)), 0.0)
    d.handle(Arrive(query(2, within=1.0)), 0.0)
    commands = d.handle(Finish(batch), 0.095)  # it took much longer than predicted
    assert [(c.query.id, c.late) for c in commands if isinstance(c, Shed)] == [(1, True)]
    assert [b.slices[0].query.id for b in started(commands)] == [2]
    d.check()
    assert (d.shed, d.open, d.completed) == (1, 1, 1)


@pytest.mark.parametrize("shed_late", [False, True])
def test_a_deadline_that_is_the_targets_may_be_missed_while_there_is_room(shed_late):
    d, budget = node(shed_late=shed_late)
    most = int(SHED_LATE_SPARE if shed_late else 0.05 * WINDOW)
    now = 0.0
    for i in range(most + 1):
        batches = started(d.handle(Arrive(query(1000 + i, size=60, at=now, within=10.0)), now))
        soft = query(i, size=60, at=now, firm=False)
        assert d.late_by_s(soft, now) > 0
        budget.level = float(most - i)  # what answers in time add is another test's
        commands = d.handle(Arrive(soft), now)
        if i == most:
            assert isinstance(commands[0], Shed)
            break
        while batches:
            now += 0.01
            commands = d.handle(Finish(batches.pop()), now)
            batches = started(commands)
        assert isinstance(commands[-1], Complete)
        assert budget.late == i + 1
        d.check()
    assert budget.left < 1


def test_however_much_of_the_budget_is_left_a_query_is_never_let_in_to_be_late_for_long():
    d, budget = node()
    for i in range(1000):
        soft = query(i, size=5, within=0.2, firm=False)
        late_s = d.late_by_s(soft, 0.0)
        commands = d.handle(Arrive(soft), 0.0)
        if any(isinstance(c, Shed) for c in commands):
            break
    assert late_s > max(LATEST * 0.2, LATEST_S) >= late_s - 0.01
    assert budget.left > 100


def test_queries_that_are_refused_use_the_budget_and_those_with_a_timeout_of_their_own_do_not():
    d, budget = node()
    full = budget.left
    d.handle(Arrive(query(0, size=60)), 0.0)
    assert isinstance(d.handle(Arrive(query(1, size=60)), 0.0)[0], Shed), "its own timeout"
    d.handle(Refused(query(2)), 0.0)
    assert budget.left == full
    d.handle(Refused(query(3, firm=False)), 0.0)
    assert budget.left == full - 1


def test_an_idle_node_refuses_no_query_for_its_own_size():
    d, budget = node()
    budget.level = -100.0
    huge = query(0, size=500, firm=False)
    assert d.late_by_s(huge, 0.0) < 0
    assert started(d.handle(Arrive(huge), 0.0))
    assert d.late_by_s(query(0, size=500), 0.0) > 0, "a client's own deadline is another matter"


def test_late_queries_that_are_tolerated_are_counted_until_their_queries_end():
    d, budget = node()
    d.handle(Arrive(query(0, size=80, firm=False)), 0.0)
    d.handle(Arrive(query(1, size=80, firm=False)), 0.0)
    d.handle(Arrive(query(2, size=80, firm=False)), 0.0)
    assert budget.tolerated == 2, "the first found nothing before it"
    d.handle(Cancel(query(1, size=80, firm=False)), 0.0)
    assert budget.tolerated == 1
    d.check()


@given(st.lists(st.booleans(), max_size=400), st.sampled_from([0.01, 0.05, 0.2]), st.booleans())
def test_no_more_answers_are_late_knowingly_than_the_target_allows(coins, miss_rate, shed_late):
    """Spent whenever that is possible, the budget stays within the quantile, but for the burst it saved."""
    budget, late = LateBudget(miss_rate, shed_late), 0
    most = budget.left
    for wants in coins:
        spends = wants and budget.left >= 1
        late += spends
        budget.answered(late=spends, foreseen=spends)
    assert budget.late == late <= most + miss_rate * len(coins)
    assert budget.margin == 0


def test_where_many_are_refused_no_query_is_let_in_late():
    """A third is refused: more misses than the target allows, whatever the others do."""
    budget = LateBudget(0.05)
    budget.level, spent = 0.0, 0
    for _ in range(1000):
        budget.answered(late=False)
        budget.answered(late=False)
        spent += budget.left >= 1
        budget.refused()
    assert spent == 0
    assert budget.margin == 0, "refusals do not make the forecast careful"
    for _ in range(20):
        budget.answered(late=False)
    assert budget.left == pytest.approx(1.0)


def test_answers_that_are_late_unforeseen_make_the_forecast_careful_and_timely_ones_undo_it():
    budget = LateBudget(0.05)
    most = int(budget.left)
    for _ in range(most):
        budget.answered(late=True, foreseen=True)
        budget.answered(late=True, foreseen=True)
    assert budget.margin == 0
    for _ in range(20):
        budget.answered(late=True)
    careful = budget.margin
    assert 0 < careful <= MOST_MARGIN
    for _ in range(400):
        budget.answered(late=False)
    assert budget.margin < careful
    for _ in range(1000):
        budget.answered(late=True)
    assert budget.margin == MOST_MARGIN
    for _ in range(1100):
        budget.answered(late=False)
    assert budget.margin == 0, "what was long ago is forgotten"


def test_the_pace_follows_what_batches_take():
    known = forecast()
    for _ in range(200):
        known.learn(0.01, 0.03)
    assert known.pace == pytest.approx(3.0)
    for _ in range(400):
        known.learn(0.01, 0.01)
    assert known.pace == pytest.approx(1.0, abs=0.01)


class Learner(Static):
    """Keeps what it learns."""

    def begin(self):
        learnt = []
        state = Static.begin(self)

        class State(PolicyState):
            place, form = state.place, state.form

            def finished(self, batch, took_s):
                learnt.append(took_s)

        LEARNT.append(learnt)
        return State()


LEARNT = []


def test_nothing_is_learnt_from_a_batch_that_failed():
    d, _ = node(policy=Learner(10))
    for i, failed in enumerate([True, True, False]):
        (batch,) = started(d.handle(Arrive(query(i, within=100.0)), 10.0 * i))
        errors = ((i, "no such id"),) if failed else ()
        d.handle(Finish(batch, errors), 10.0 * i + (5.0 if failed else 0.02))
    assert LEARNT[-1] == [pytest.approx(0.02)]
    assert d.late_by_s(query(9, at=30.0, within=0.1), 30.0) == pytest.approx(0.02 - 0.09), "twice the profile"
    d.check()


def test_work_of_shared_batches_is_by_items_and_of_others_by_batches():
    seconds = [0.01 + 0.001 * n for n in range(101)]  # 10 ms a batch, 1 ms an item
    known = Forecast(seconds, 50, False, LateBudget(0.05))
    assert known.work_s(10) == pytest.approx(0.02)
    assert known.work_s(100) == pytest.approx(0.12)
    assert known.alone_s(100, workers=2) == pytest.approx(0.06)
    assert known.alone_s(100, workers=1) == pytest.approx(0.12)
    known.adopt(50, True)
    assert known.work_s(10) == pytest.approx(10 * 0.06 / 50)
    known.adopt(None, False)
    assert known.work_s(200) == pytest.approx(0.21), "beyond what was measured"


def test_another_policy_recounts_the_work_in_line():
    d, _ = node()
    for i in range(4):
        d.handle(Arrive(query(i, size=30, within=10.0)), 0.0)
    d.check()
    d.handle(Adopt(0, Coalescing(50, 5)), 0.0)
    d.check()
    d.handle(Adopt(0, DeepRecSched(7)), 0.0)
    d.check()


def test_batch_seconds_come_from_the_level_of_all_workers_busy():
    points = (Point(1, 10, (1.0,)), Point(2, 1, (1.0,)), Point(2, 3, (3.0,)))
    assert batch_seconds(LatencyProfile("x", points), 2, 3) == pytest.approx([1.0, 1.0, 2.0, 3.0])


def test_a_query_that_is_offloaded_is_predicted_by_the_accelerators_times_and_line():
    """An accelerator takes a tenth of the CPU's time; queries of more than 50 items go to it."""
    d = Dispatcher(DeepRecSched(100, 50), {CPU: 1, GPU: 1})
    budget = LateBudget(0.05)
    gpu = Forecast([0.1 * PER_ITEM_S * n for n in range(101)], None, False, budget)
    d.handle(
        Adopt(0, d.policy, Forecast([PER_ITEM_S * n for n in range(101)], None, False, budget, gpu)), 0.0
    )
    assert d.late_by_s(query(0, size=100), 0.0) == pytest.approx(0.010 - 0.09)
    (away,) = started(d.handle(Arrive(query(0, size=100)), 0.0))
    (here,) = started(d.handle(Arrive(query(1, size=50)), 0.0))
    assert (away.device, here.device) == (GPU, CPU)
    assert d.late_by_s(query(2, size=80), 0.0) == pytest.approx(0.018 - 0.09), "behind 10 ms of work"
    assert d.late_by_s(query(2, size=50), 0.0) == pytest.approx(0.100 - 0.09), "behind 50 ms of work"
    d.handle(Finish(away), 0.03)
    assert gpu.pace == pytest.approx(3.0)
    assert d.late_by_s(query(3, size=80, at=0.03), 0.03) == pytest.approx(0.024 - 0.09)
    d.handle(Lost(GPU, 0), 0.03)
    assert d.late_by_s(query(3, size=80, at=0.03), 0.03) == pytest.approx(0.02 + 0.08 - 0.09), "on the CPU"
    d.handle(Ready(GPU, 0), 0.04)
    assert d.late_by_s(query(3, size=80, at=0.04), 0.04) == pytest.approx(0.024 - 0.09)
    d.check()


def test_a_node_is_ready_while_a_usual_query_is_in_time_and_again_when_it_is_early() -> None:
    ready = Readiness()
    assert ready.update(-0.001, 0.1), "hardly in time"
    assert not ready.update(0.001, 0.1)
    assert not ready.update(-0.02, 0.1), "not yet early enough"
    assert ready.update(-0.025, 0.1)
    assert ready.update(float("-inf"), 0.1)
    assert not ready.update(float("inf"), 0.1), "no worker"

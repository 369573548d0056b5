"""What an announced load allows for: slower batches, and the network face."""

from __future__ import annotations

from math import inf

import pytest

from deeprecsys.core.allowance import FACE_MOST, NOTHING, Allowance
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.core.target import Target

PROFILE = LatencyProfile("any", (Point(1, 1, (1e-3,)), Point(1, 100, (1e-2,))), host_s=1e-4)


def test_nothing_changes_nothing():
    assert NOTHING.profile(PROFILE) == PROFILE
    assert NOTHING.target(Target(latency_s=0.1)) == Target(latency_s=0.1)
    assert (NOTHING.most_qps, NOTHING.limit(1e9)) == (inf, "workers")


def test_batches_take_longer_by_the_margin_and_so_does_the_face():
    slower = Allowance(0.5, face_s=4e-4).profile(PROFILE)
    assert slower.seconds(100) == pytest.approx(1.5e-2)
    assert slower.host_s == pytest.approx(6e-4), "the face, in place of what a trial measured"
    assert Allowance(0.5).profile(PROFILE).host_s == pytest.approx(1.5e-4)


def test_a_face_on_a_core_of_its_own_takes_nothing_from_the_workers():
    assert Allowance(0.0, face_s=4e-4, shared=False).profile(PROFILE).host_s == PROFILE.host_s


def test_a_query_takes_the_faces_time_too():
    assert Allowance(0.0, face_s=1e-3).target(Target(latency_s=0.1)).latency_s == pytest.approx(0.098)
    assert Allowance(0.0, face_s=1.0).target(Target(latency_s=0.1)).latency_s == pytest.approx(0.05)


def test_the_face_is_one_thread_and_limits_the_load_by_itself():
    allowed = Allowance(0.25, face_s=8e-4)
    assert allowed.most_qps == pytest.approx(FACE_MOST / 1e-3)
    assert allowed.limit(allowed.most_qps) == "network face"
    assert allowed.limit(0.99 * allowed.most_qps) == "workers"

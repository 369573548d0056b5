"""Latency profiles: interpolation, the file format, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeprecsys.core.errors import InputError
from deeprecsys.core.profile import LatencyProfile, Point

PROFILE = LatencyProfile(
    "m",
    (
        Point(1, 1, (0.001,)),
        Point(1, 10, (0.010,)),
        Point(1, 100, (0.055,)),
        Point(4, 1, (0.002, 0.004)),
        Point(4, 100, (0.1, 0.3)),
    ),
)


def test_measured_points_come_back_and_between_them_it_is_linear():
    assert PROFILE.seconds(1) == 0.001
    assert PROFILE.seconds(100) == 0.055
    assert PROFILE.seconds(55) == pytest.approx(0.0325)
    assert PROFILE.seconds(190) == pytest.approx(0.1), "along the last segment"


@pytest.mark.parametrize(("busy", "level"), [(1, 1), (2, 1), (3, 4), (4, 4), (40, 4)])
def test_the_nearest_level_of_contention_is_used(busy, level):
    assert PROFILE.curve(busy)[0].busy == level


def test_the_spread_is_walked_by_its_quantile_and_the_mean_is_its_integral():
    assert PROFILE.seconds(100, 4, u=0.0) == pytest.approx(0.1)
    assert PROFILE.seconds(100, 4, u=0.75) == pytest.approx(0.25)
    assert PROFILE.seconds(100, 4) == pytest.approx(0.2)
    assert Point(1, 1, (1.0, 2.0, 6.0)).mean_s == pytest.approx(2.75)
    assert Point(1, 1, (1.0, 2.0, 6.0)).median_s == 2.0


@given(st.integers(1, 5000), st.integers(1, 8), st.none() | st.floats(0, 0.999))
def test_a_batch_always_takes_some_time(batch, busy, u):
    assert PROFILE.seconds(batch, busy, u) > 0


def test_a_steep_first_segment_never_goes_below_zero():
    steep = LatencyProfile("m", (Point(1, 10, (0.001,)), Point(1, 20, (0.1,))))
    assert steep.seconds(1) > 0


@pytest.mark.parametrize("profile", [PROFILE, PROFILE.ordered([1.0, 3.0, 2.0])])
def test_a_profile_survives_its_file(profile):
    assert LatencyProfile.from_json(json.loads(json.dumps(profile.to_json()))) == profile


@given(st.lists(st.floats(0.2, 30.0), min_size=1, max_size=200))
def test_the_order_of_a_trial_changes_no_times(ratios):
    ordered = PROFILE.ordered(ratios)
    assert ordered.points == PROFILE.points
    order = sorted(range(len(ratios)), key=lambda i: ratios[i])
    assert [ordered.ranks[i] for i in order] == sorted(ordered.ranks)
    assert np.mean(ordered.ranks) == pytest.approx(0.5, abs=1e-3)
    assert ordered.slowed(2.0).ranks == ordered.ranks


def test_times_drawn_by_ranks_are_those_of_the_profile_in_that_order():
    ratios = np.random.default_rng(0).gamma(9.0, size=400)
    times = tuple(np.quantile(ratios, np.linspace(0, 1, 41)))
    ordered = LatencyProfile("m", (Point(1, 1, times),)).ordered(ratios)
    drawn = [ordered.seconds(1, u=u) for u in ordered.ranks]
    assert np.isclose(drawn, ratios, rtol=0.03).mean() > 0.95, "all but some of the longest"


def test_a_hand_written_file_needs_little():
    data = {"model": "x", "points": [{"batch": 1, "seconds": 0.001}]}
    assert LatencyProfile.from_json(data).points == (Point(1, 1, (0.001,)),)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"points": []}, "at least one"),
        ({"points": [{"batch": 2, "seconds": [1]}, {"batch": 1, "seconds": [1]}]}, "rising order"),
        ({"points": [{"batch": 1, "seconds": [-1]}]}, "above 0"),
        ({"points": [{"batch": 1, "seconds": []}]}, "got none"),
        ({"points": [{"batch": 1}]}, "expected a number"),
        ({"points": [{"batch": 1, "seconds": [float("nan")]}]}, "above 0"),
        ({"points": [{"batch": 1, "seconds": [2, 1]}]}, "rising quantiles"),
        ({"points": [{"batch": 0, "seconds": [1]}]}, "at least 1"),
        ({"points": [{"batch": 1.5, "seconds": [1]}]}, "whole number"),
        ({"points": [{"batch": 1, "second": [1]}]}, "'seconds'"),
        ({"points": [7]}, "an object"),
        ({"model": 3}, "expected a str"),
        ({"format": "deeprecsys-profile/9"}, "deeprecsys-profile/1"),
        ({"modle": "x"}, "'model'"),
    ],
)
def test_a_bad_profile_is_refused_in_one_line_that_names_the_place(change, words):
    data = {"model": "x", "points": [{"batch": 1, "seconds": [0.001]}], **change}
    with pytest.raises(InputError) as error:
        LatencyProfile.from_json(data)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_profile_that_is_no_object_is_refused():
    with pytest.raises(InputError, match="JSON object"):
        LatencyProfile.from_json([])


def test_the_nodes_own_work_survives_a_file_and_must_be_a_time():
    data = {"model": "m", "points": [{"batch": 1, "seconds": 0.001}], "host_s": 1e-4}
    assert LatencyProfile.from_json(LatencyProfile.from_json(data).to_json()).host_s == 1e-4
    for bad in (-1e-4, "much", True):
        with pytest.raises(InputError, match="profile host_s"):
            LatencyProfile.from_json({**data, "host_s": bad})


@pytest.mark.parametrize("bad", ["much", 0.5, [True], [0.5, 1.01], [-0.1]])
def test_ranks_are_numbers_from_0_to_1(bad):
    data = {"model": "m", "points": [{"batch": 1, "seconds": 0.001}], "ranks": bad}
    with pytest.raises(InputError, match=r"^profile ranks: expected (a list of )?numbers"):
        LatencyProfile.from_json(data)

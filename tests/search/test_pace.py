"""Which trials were slow."""

from __future__ import annotations

from math import nan

import pytest

from deeprecsys.search.intervals import Pace, slow


@pytest.mark.parametrize(
    ("one", "others", "expected"),
    [
        ((100, 1.2), [(100, 1.0), (105, 1.0), (95, 1.1)], True),
        ((100, 1.1), [(100, 1.0), (105, 1.0), (95, 1.1)], False),
        ((100, 1.2), [(100, 1.0), (105, 1.0)], False),  # too few to tell
        ((100, 1.2), [(100, 1.0), (140, 1.0), (60, 1.0)], False),  # other rates are other work
        ((100, 1.2), [(100, 1.2), (100, 1.2), (100, 1.0)], False),  # most were so
        ((100, nan), [(100, 1.0)] * 3, False),
        ((100, 9.0), [(100, nan)] * 3, False),
    ],
)
def test_a_trial_is_slow_beside_the_median_of_its_like(one, others, expected):
    assert slow(Pace(*one), [Pace(*o) for o in others]) is expected

"""What users are told."""

from __future__ import annotations

import pytest

from deeprecsys.core.errors import InputError, positive, unknown


def test_unknown_names_are_told_the_nearest() -> None:
    assert "did you mean 'poisson'" in str(unknown("arrival process", "poison", ["poisson", "constant"]))
    assert "did you mean" not in str(unknown("arrival process", "zzz", ["poisson", "constant"]))


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_only_finite_numbers_above_zero_are_positive(value: float) -> None:
    with pytest.raises(InputError, match="rate: expected a number above 0"):
        positive("rate", value)

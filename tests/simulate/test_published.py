"""A published device's profile: the published ratio at published sizes, sane between, labelled everywhere."""

from __future__ import annotations

import pytest

from deeprecsys.core.errors import InputError
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.simulate.published import DEVICES, GTX_1080_TI, device, device_profile, speed_up_at
from deeprecsys.zoo import MODELS


def cpu(model: str = "wnd") -> LatencyProfile:
    points = [Point(1, b, tuple(f * (1e-4 + 1e-5 * b) for f in (0.9, 1.0, 1.1))) for b in (1, 100, 1000)]
    rested = Point(1, 1, (1.0,), after_idle=True)
    return LatencyProfile(model, (*points, Point(2, 1, (5.0,)), rested), engine="eager", threads=3)


@pytest.mark.parametrize("model", sorted(GTX_1080_TI.speed_up))
def test_at_published_sizes_the_ratio_of_times_is_the_published_one(model):
    found = device_profile(cpu(model), GTX_1080_TI)
    for batch, speed_up in zip(GTX_1080_TI.batches, GTX_1080_TI.speed_up[model], strict=True):
        assert cpu(model).seconds(batch) / found.seconds(batch) == pytest.approx(speed_up, rel=1e-9)


def test_between_published_sizes_it_lies_between_and_beyond_the_last_it_stays():
    values = GTX_1080_TI.speed_up["wnd"]
    assert values[3] < speed_up_at(GTX_1080_TI, "wnd", 100) < values[4]
    assert speed_up_at(GTX_1080_TI, "wnd", 128) == pytest.approx((values[3] * values[4]) ** 0.5)
    assert speed_up_at(GTX_1080_TI, "wnd", 4096) == pytest.approx(values[-1])


def test_it_keeps_the_spread_and_says_that_it_was_not_measured():
    found = device_profile(cpu(), GTX_1080_TI)
    assert all(p.seconds[0] / p.seconds[2] == pytest.approx(0.9 / 1.1) for p in found.points)
    assert found.busy_levels == [1]
    assert found.rested is found
    assert (found.machine["emulated"], found.machine["input_transfer"]) == (True, True)
    assert found.engine == "emulated:gtx-1080-ti"
    assert LatencyProfile.from_json(found.to_json()) == found


def test_every_model_of_the_zoo_has_published_speed_ups():
    assert all(speed_up_at(GTX_1080_TI, name, 64) > 0 for name in MODELS if not name.endswith("-jagged"))


def test_an_unknown_model_or_device_is_named():
    with pytest.raises(InputError, match="got bert"):
        speed_up_at(GTX_1080_TI, "bert", 1)
    with pytest.raises(InputError, match="did you mean 'gtx-1080-ti'"):
        device("gtx1080ti")
    assert all(device(name).name == name for name in DEVICES)

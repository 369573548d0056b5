"""Platforms: what the model counts is what the zoo counts, and it moves as hardware does."""

from __future__ import annotations

from dataclasses import fields

import pytest

from deeprecsys.core.profile import LatencyProfile
from deeprecsys.paper.platforms import (
    BROADWELL,
    EPYC_64,
    SKYLAKE,
    CpuSpec,
    NodePower,
    batch_time,
    gtx_1080_ti,
    modelled,
    scaled,
    work_of,
)
from deeprecsys.paper.platforms.cpu import hot_share
from deeprecsys.simulate.published import GTX_1080_TI
from deeprecsys.zoo import MODELS
from deeprecsys.zoo.schema import Per

NAMES = [n for n in MODELS if not n.endswith("-artefact")]


@pytest.mark.parametrize("name", list(MODELS))
def test_gathers_add_up_to_the_models_own_count(name: str) -> None:
    model, work = MODELS[name], work_of(MODELS[name])
    for per in Per:
        gathered = sum(g.rows * g.row_bytes for g in work.gathers if g.per is per)
        assert gathered == model.schema.gathered_bytes(per)
    assert 4 * model.dense_parameters >= work.weight_bytes  # biases are not streamed


@pytest.mark.parametrize("spec", [BROADWELL, SKYLAKE], ids=lambda s: s.name)
def test_every_constant_names_its_source(spec: CpuSpec) -> None:
    named = {f.name for f in fields(CpuSpec)} - {"name", "sources"}
    assert set(spec.sources) == named
    assert all(
        s.startswith(("facts", "published", "measured", "assumed", "from")) for s in spec.sources.values()
    )


@pytest.mark.parametrize("name", NAMES)
def test_larger_batches_take_longer_and_cost_less_per_item(name: str) -> None:
    work = work_of(MODELS[name])
    times = [batch_time(SKYLAKE, work, b, 40).total for b in (1, 16, 128, 1024)]
    assert times == sorted(times)
    assert times[-1] / 1024 < times[0]


def test_busy_neighbours_stretch_gathers_and_nothing_else() -> None:
    work = work_of(MODELS["dlrm-rmc2"])
    alone, crowded = (batch_time(SKYLAKE, work, 256, busy) for busy in (1, 40))
    assert crowded.stretch > 1 == alone.stretch
    assert crowded.gathers > alone.gathers
    assert crowded.launches == alone.launches
    # The memory's bandwidth is what they share: all of them together take no more of it than there is.
    missed = 40 * work.gathered_bytes(256) * 0.5
    assert crowded.total > missed / (2 * 85e9)


def test_wider_vectors_need_larger_batches() -> None:
    """Weights are read once per batch at the same speed, so a wider core is at half its best later."""
    work = work_of(MODELS["wnd"])

    def share(lanes: int, batch: int) -> float:
        spec = SKYLAKE.but(lanes=lanes)
        best = batch_time(spec, work, 1024).products / 1024
        return best / (batch_time(spec, work, batch).products / batch)

    assert share(16, 16) < share(8, 16)


def test_an_inclusive_cache_loses_weights_to_gathers() -> None:
    work = work_of(MODELS["dlrm-rmc2"])
    inclusive, exclusive = (BROADWELL.but(inclusive=x, copies="private") for x in (True, False))
    assert batch_time(inclusive, work, 512, 28).products > batch_time(exclusive, work, 512, 28).products


def test_hot_rows() -> None:
    assert hot_share(10, 10, 0.9) == 1.0
    assert hot_share(10, 1000, 1.1) > hot_share(10, 1000, 0.7)
    exact = sum(k**-0.9 for k in range(1, 1001)) / sum(k**-0.9 for k in range(1, 100_001))
    assert hot_share(1000, 100_000, 0.9) == pytest.approx(exact, rel=0.1)


def test_a_modelled_profile_says_so_and_survives_its_file() -> None:
    profile = modelled(BROADWELL, work_of(MODELS["ncf"]))
    assert profile.engine == "modelled"
    assert profile.detail["modelled"] is True
    assert profile.machine["modelled"] is True
    assert LatencyProfile.from_json(profile.to_json()) == profile


@pytest.mark.parametrize("name", list(GTX_1080_TI.speed_up))
def test_the_card_has_its_published_speed_ups(name: str) -> None:
    core = modelled(SKYLAKE, work_of(MODELS[name]), cores=1)
    card, free = gtx_1080_ti(core), gtx_1080_ti(core, transfer=False)
    for b, s in zip(GTX_1080_TI.batches, GTX_1080_TI.speed_up[name], strict=True):
        if b >= 256:  # below, a batch is made no quicker than a smaller one
            assert core.seconds(b) / card.seconds(b) == pytest.approx(s, rel=1e-6)
        assert free.seconds(b) < card.seconds(b)


def test_a_scaled_server_keeps_measured_times_until_bandwidth_runs_out() -> None:
    measured = modelled(SKYLAKE, work_of(MODELS["dlrm-rmc1"]), cores=2)
    server = scaled(measured, work_of(MODELS["dlrm-rmc1"]), EPYC_64)
    assert server.detail["modelled"] is True
    assert server.seconds(64, 1) == measured.seconds(64, 2)
    assert server.seconds(512, 64) > server.seconds(512, 1)


def test_power_idles_and_rises() -> None:
    node = NodePower(250, 250, idle_share=0.5)
    assert node.watts(0, 0) == 250
    assert node.watts(1, 0) == 375
    assert node.watts(1, 1) == 500
    assert NodePower(250, 250, constant=True).watts(0, 0) == 500

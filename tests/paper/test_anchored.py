"""Anchored platforms: a measured batch comes back on its own machine, and its parts follow the hardware."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from deeprecsys.core.errors import InputError
from deeprecsys.files import read_profile
from deeprecsys.paper.platforms import BROADWELL, EPYC_7003, SKYLAKE, batch_time, caffe2, eager, work_of
from deeprecsys.paper.platforms.anchored import FORMAT, Anchor
from deeprecsys.paper.platforms.anchors import CAFFE2_MS, EAGER_FILE, epyc_7003_limits
from deeprecsys.paper.platforms.limits import TERMS, limits_of
from deeprecsys.paper.published import MODELS
from deeprecsys.zoo import MODELS as ZOO

PROFILES = Path("profiles") / "amd-25-1-avx2"
FILES = sorted(EAGER_FILE.parent.glob("eager-*.json"))


@pytest.mark.parametrize("model", MODELS)
def test_a_batch_takes_what_it_took_on_the_machine_that_it_was_measured_on(model: str) -> None:
    anchor = eager()
    for batch in anchor.batches(model):
        operators = sum(p.seconds for p in batch.operators)
        same = anchor.parts(work_of(ZOO[model]), batch.items, anchor.limits)
        assert same.total == pytest.approx(max(batch.seconds, operators))


@pytest.mark.parametrize("name", list(CAFFE2_MS))
def test_the_artefacts_batches_add_up_to_what_it_took(name: str) -> None:
    anchor = caffe2()
    for batch, ms in zip(anchor.batches(name), CAFFE2_MS[name], strict=True):
        assert anchor.parts(work_of(ZOO[name]), batch.items, anchor.limits).total == pytest.approx(1e-3 * ms)


def test_each_part_follows_its_own_limit() -> None:
    anchor, work = eager(), work_of(ZOO["wnd"])
    was, limits = anchor.parts(work, 64, anchor.limits), anchor.limits
    slower = replace(limits, product_gflops={n: r / 2 for n, r in limits.product_gflops.items()})
    assert anchor.parts(work, 64, slower) == replace(was, products=2 * was.products)
    later = replace(limits, operator_us=3 * limits.operator_us)
    assert anchor.parts(work, 64, later).total == pytest.approx(was.total + 2 * was.launches)
    far = replace(limits, gather_ns={where: 2 * ns for where, ns in limits.gather_ns.items()})
    assert anchor.parts(work, 64, far).rows == pytest.approx(2 * was.rows)


@pytest.mark.parametrize("model", MODELS)
def test_a_machine_that_was_never_measured_part_by_part_is_predicted(model: str) -> None:
    """Its limits and its whole batches were, and nothing is fitted to the latter."""
    profile = read_profile("profile", PROFILES / f"{model}.json")
    took = {p.batch: p.median_s for p in profile.curve(1)}
    found = [eager().parts(work_of(ZOO[model]), b, epyc_7003_limits()).total / s for b, s in took.items()]
    assert 0.6 < min(found) < max(found) < 1.5
    roofline = [batch_time(EPYC_7003, work_of(ZOO[model]), b).total / s for b, s in took.items()]
    assert max(roofline) < min(found) or min(roofline) < 0.6 * min(found)


@pytest.mark.parametrize("spec", [BROADWELL, SKYLAKE], ids=lambda s: s.name)
@pytest.mark.parametrize("model", MODELS)
def test_busy_cores_and_copies_only_ever_lengthen_a_batch(spec, model: str) -> None:
    work, anchor = work_of(ZOO[model]), eager()
    for items in (1, 64, 512):
        alone, crowded = (anchor.time(spec, work, items, busy) for busy in (1, spec.cores))
        assert alone.total <= 1.01 * crowded.total  # shared weights are read by all: nearer
        assert crowded.launches == alone.launches
        private = anchor.time(spec.but(copies="private"), work, items, spec.cores)
        assert private.total >= crowded.total * 0.999


def test_a_profile_says_that_it_is_modelled() -> None:
    profile = eager().profile(SKYLAKE, work_of(ZOO["ncf"]))
    assert profile.engine == "modelled"
    assert "eager torch" in profile.detail["method"]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_anchor_has_all_models_parts_and_hardware(file: Path) -> None:
    anchor = Anchor.read(file)
    assert set(anchor.models) == set(MODELS)
    assert set(anchor.limits.hardware) == set(TERMS)
    assert {p.kind for b in anchor.batches("wnd") for p in b.operators} == {"product", "rows", "other"}


def test_what_is_no_anchor_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"expected parts of batches .*deeprecsys-parts/1.*got 'deeprecsys-profile/1'"
    ):
        Anchor.read(PROFILES / "ncf.json")
    whole = json.loads(EAGER_FILE.read_text())
    for drop, says in (("limits", "limits of"), ("models", "expected parts of batches")):
        (tmp_path / "a.json").write_text(json.dumps({k: v for k, v in whole.items() if k != drop}))
        with pytest.raises(InputError, match=says):
            Anchor.read(tmp_path / "a.json")
    bad = whole | {"format": FORMAT, "models": {"ncf": [{"items": 1, "seconds": 1e-3}]}}
    with pytest.raises(InputError, match="operators"):
        Anchor.from_json("x", bad)
    with pytest.raises(InputError, match=r"batch of ncf: expected one of 1, 2.*got 3"):
        eager().parts(work_of(ZOO["ncf"]), 3, eager().limits)
    with pytest.raises(InputError, match="hardware terms"):
        limits_of(SKYLAKE, epyc_7003_limits())

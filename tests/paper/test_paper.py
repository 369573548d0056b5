"""The paper's figures: what is counted, that all can be made quickly, that each is held against the paper."""

from __future__ import annotations

import json
import re
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from deeprecsys.paper import directions, sensitivity, uncertainty
from deeprecsys.paper.networks import bert_base, lstm, resnet50
from deeprecsys.paper.parallel import FigureRunner, parallel
from deeprecsys.paper.platforms import SKYLAKE
from deeprecsys.paper.published import MODELS, RATIOS, SHARES
from deeprecsys.paper.recipes import RECIPES
from deeprecsys.paper.result import ClaimVerdict, direction
from deeprecsys.paper.study import Case, Study
from deeprecsys.paper.trial import FigureCapacity
from deeprecsys.paper.variants import VARIANTS
from tests.cli.conftest import Refused, call

SOME = ("dlrm-rmc2", "wnd")
FIGURES = (1, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14)


def test_other_networks_have_their_published_sizes() -> None:
    resnet, bert = resnet50(), bert_base()
    assert resnet.flops == pytest.approx(
        2 * 4.09e9, rel=0.01
    )  # multiply-adds, with the stride in the 3 x 3 layer
    assert resnet.weight_bytes == pytest.approx(4 * 25.5e6, rel=0.01)
    assert bert.memory_bytes == pytest.approx(4 * 109.5e6, rel=0.01)
    assert lstm().intensity(1) == pytest.approx(0.5, rel=0.01)  # every weight is read for one multiply-add


def test_published_values_cover_what_is_compared() -> None:
    assert set(RATIOS) == set(MODELS)
    assert all(sum(shares.values()) <= 100 for shares in SHARES.values())
    assert tuple(RECIPES) == FIGURES


@pytest.fixture(scope="module")
def study() -> Study:
    """Shared: what one test has it find, no other finds again."""
    return Study(quick=True, profiles=Path("profiles"))


def test_tuned_is_never_below_static_and_a_card_never_hurts(study: Study) -> None:
    for platform in study.specs:
        case = Case("wnd", platform=platform)
        assert study.tuned(case).qps >= study.static(case).qps > 0
        assert study.with_gpu(case).qps >= study.tuned(case).qps


def test_a_capacity_brings_no_more_work_than_there_are_workers(study: Study) -> None:
    """However short the path: an overload is no capacity."""
    for found in study.curve(Case("dlrm-rmc2", "high")):
        assert 0.7 < found.cpu_load <= 1


def test_the_static_batch_is_the_papers(study: Study) -> None:
    assert study.static_batch(Case("wnd")) == 25
    assert study.static_batch(Case("wnd", platform="Broadwell")) == 36


def test_variants_vary() -> None:
    same = [n for n, make in VARIANTS.items() if n != "as it is" and _alike(make(), Study(quick=True))]
    assert same == []
    assert set(sensitivity.QUICK) < set(VARIANTS)


def _alike(a: Study, b: Study) -> bool:
    def times(s: Study) -> list[float]:
        cpu = [s.cpu(m, p).seconds(n, s.specs[p].cores) for m in SOME for p in s.specs for n in (1, 512)]
        cpu += [s.cpu(m, "Skylake").seconds(64, 1, 0.9) for m in SOME]
        return cpu + [s._gpu(m, t)[0].seconds(512) for m in SOME for t in (True, False)]

    return times(a) == times(b)


def test_a_card_of_a_few_cores_adds_a_few_cores(study: Study) -> None:
    """The published speed-up is 4.6 at most: no policy can add more than that to forty cores."""
    case = Case("wnd")
    assert study.with_gpu(case).qps <= study.tuned(case).qps * (1 + 4.7 / SKYLAKE.cores) * 1.03


def test_an_unknown_figure_is_refused(refused: Refused) -> None:
    assert "valid: 1" in refused("paper", "2")


def test_one_figure_alone(tmp_path: Path) -> None:
    assert call("paper", "5", "--quick", "--out", str(tmp_path)) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"figure05.json", "figure05-sizes.png", "index.html"}


def test_all_of_it_quickly(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All figures, of the shared study, and of the variations the one that is that study too."""

    def shared(*, quick: bool, profiles: Path) -> Study:
        assert (quick, profiles) == (True, study.profiles)
        return study

    monkeypatch.setattr("deeprecsys.paper.study.Study", shared)
    monkeypatch.setattr(sensitivity, "QUICK", ("as it is",))
    monkeypatch.setattr(uncertainty, "QUICK_DRAWS", 1)
    monkeypatch.setattr(sensitivity, "VARIANTS", {"as it is": lambda: study})
    assert call("paper", "--quick", "--out", str(tmp_path), "--json", str(tmp_path / "all.json")) == 0
    document = json.loads((tmp_path / "all.json").read_text())
    assert [f["figure"] for f in document["figures"]] == list(FIGURES)
    for f in document["figures"]:
        assert f["claims"], f["figure"]
        assert all(c["paper"] and c["ours"] and c["verdict"] for c in f["claims"])
        assert (tmp_path / f"figure{f['figure']:02d}.json").exists()
    varied = document["sensitivity"]["as it is"]
    assert {p: varied[p]["cpu_gpu"] >= varied[p]["cpu"] >= 1 for p in study.specs} == dict.fromkeys(
        study.specs, True
    )
    (drawn,) = document["draws"]
    assert set(drawn["verdicts"]) == {c["what"] for n in (12, 14, 10) for c in directions_of(document, n)}
    page = (tmp_path / "index.html").read_text()
    assert page.count("<svg") == len(list(tmp_path.glob("*.png"))) >= len(FIGURES)
    assert not re.search(r'(src|href)="https?:', page)
    assert "modelled" in page


def directions_of(document: dict[str, Any], figure: int) -> list[dict[str, Any]]:
    claims = next(f for f in document["figures"] if f["figure"] == figure)["claims"]
    return [claims[i] for i in directions.OF[figure]]


def test_a_draw_only_lengthens_parts_and_is_the_same_every_time() -> None:
    errors = asdict(uncertainty.part_errors())
    assert min(errors.values()) > 1, "data sheets were never too slow"
    for platform, anchor in uncertainty.anchors(3).items():
        drawn = asdict(anchor.factors)
        assert all(1 <= drawn[part] <= by for part, by in errors.items())
        assert asdict(uncertainty.anchors(3)[platform].factors) == drawn
        assert asdict(uncertainty.anchors(4)[platform].factors) != drawn


def test_workers_find_what_the_study_finds(study: Study) -> None:
    alone = Study(quick=True)
    told: list[float] = []
    with parallel(Study(quick=True), 2) as members:
        result, seconds = members.make(14, lambda share, what: told.append(share))
    assert seconds > 0
    assert told == sorted(told)
    assert len(told) == len(MODELS)
    wnd = [alone.with_gpu(Case("wnd", level)).gpu_share for level in ("low", "medium", "high")]
    assert result.data["share"]["over one core"]["wnd"] == wnd


class Kept:
    """A pool that answers at once, and keeps what it would still have to send."""

    def __init__(self) -> None:
        self.sent: list[tuple[dict[object, object], int]] = []

    def submit(self, ask: object, figure: int, model: str, memo: dict[object, object]) -> Future[object]:
        self.sent.append((memo, len(memo)))
        done: Future[object] = Future()
        done.set_result({("found", model): 1})
        return done


def test_what_workers_are_sent_does_not_change_under_way() -> None:
    pool, study = Kept(), Study(quick=True)
    FigureRunner(study, pool).prepare(14, lambda share, what: None)  # type: ignore[arg-type]
    assert len(study.memo) == len(pool.sent) == len(MODELS)
    assert all(len(memo) == before for memo, before in pool.sent)


def test_a_larger_batch_is_wanted_where_no_size_fits_both(study: Study) -> None:
    low, high = Case("mt-wnd", "low", "Broadwell"), Case("mt-wnd", "high", "Broadwell")
    assert study.batch_rises(low, low) == 0
    assert study.batch_rises(low, high) == -study.batch_rises(high, low)
    study.memo["curve", low] = (FigureCapacity(32, None, 100.0), FigureCapacity(128, None, 97.0))
    study.memo["curve", high] = (FigureCapacity(32, None, 99.0), FigureCapacity(128, None, 99.9))
    try:
        assert study.batch_rises(low, high) == 0  # 32 is within 2 % of the best for both
        study.memo["curve", high] = (FigureCapacity(32, None, 97.0), FigureCapacity(128, None, 99.9))
        assert study.batch_rises(low, high) == 1
    finally:
        del study.memo["curve", low], study.memo["curve", high]


@pytest.mark.parametrize(
    ("up", "down", "verdict"),
    [
        (8, 0, ClaimVerdict.AGREES),
        (0, 8, ClaimVerdict.DIFFERS),
        (3, 0, ClaimVerdict.ALIKE),
        (4, 4, ClaimVerdict.ALIKE),
    ],
)
def test_a_direction_takes_half_of_the_pairs(up: int, down: int, verdict: ClaimVerdict) -> None:
    assert direction(up, down, 8) is verdict


def test_a_threshold_moves_only_where_the_other_is_not_as_good() -> None:
    study, costly, free = Study(quick=True), Case("wnd"), Case("wnd", transfer=False)
    study.memo["card", 1, costly] = FigureCapacity(100, None, 100.0)
    study.memo["card", 1, free] = FigureCapacity(100, 120, 110.0)
    for as_good, move in ((True, 0), (False, -1)):
        study.memo["as good", 1, costly, free] = as_good
        assert study.threshold_rises(costly, free) == move
    assert study.threshold_rises(costly, costly) == 0

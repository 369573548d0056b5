"""A policy in one file outside the package: simulated, searched by `tune`, run live, and served."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deeprecsys.api import policies
from deeprecsys.api.policies import class_of, from_description, policies_to_search, policy_of
from deeprecsys.api.retuning.decision import RetuneSettings
from deeprecsys.api.retuning.resimulate import Question, Resimulator, best_policy
from deeprecsys.api.retuning.retuner import Retuner
from deeprecsys.core.errors import InputError
from deeprecsys.core.policy import DeepRecSched, registry
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.core.runlog import Status
from deeprecsys.core.target import Target
from deeprecsys.plugins import installed
from deeprecsys.search.climbs import model_search
from deeprecsys.search.history import Score
from deeprecsys.simulate.driver import simulate
from tests.cli.conftest import call

FILE = Path(__file__).parents[2] / "examples" / "policies" / "shortest_first.py"
TEXT = f"{FILE}:ShortestFirst"
PROFILE = LatencyProfile("any", (Point(1, 1, (2e-3,)), Point(1, 1000, (102e-3,))))
TARGET = Target(latency_s=0.06)
GIVEN: dict[str, Any] = {"workers": 40, "largest": 1000, "target": TARGET}


def test_the_example_is_one_short_file() -> None:
    assert len(FILE.read_text().splitlines()) < 60


def test_it_is_named_by_its_file_and_takes_the_options_of_any_policy() -> None:
    kind, args = class_of(TEXT)
    assert (kind.name, args) == ("shortest-first", [])
    assert class_of("shortest-first")[0] is class_of(TEXT)[0] is kind
    assert policy_of(TEXT, None, None, **GIVEN) == kind(25)  # type: ignore[call-arg]
    assert policy_of(TEXT, 64, None, **GIVEN).describe() == {
        "policy": "shortest-first", "batch_size": 64, "offload_above": None
    }  # fmt: skip
    for wrong, message in [
        (f"{TEXT}:5", "--policy shortest-first: arguments: expected none, got '5'"),
        (f"{FILE}:Longest", "policy .*Longest': expected an importable module:attribute or FILE.py:Class"),
        (f"{FILE}:dataclass", "expected a subclass of deeprecsys.core.policy.Policy, got <function"),
        ("no/such/file.py:X", "expected an importable module:attribute or FILE.py:Class"),
        ("shortest", "unknown policy 'shortest': did you mean 'shortest-first'"),
    ]:
        with pytest.raises(InputError, match=message):
            policy_of(wrong, None, None, **GIVEN)
    with pytest.raises(InputError, match=r"--offload-above: expected policy deeprecsched, .* got shortest"):
        policy_of(TEXT, None, 5, **GIVEN)


def test_in_virtual_time_the_shortest_of_those_that_wait_goes_first() -> None:
    policy = policy_of(TEXT, 1000, None, **GIVEN)
    log = simulate(policy, np.zeros(5), np.array([1000, 300, 10, 500, 20]), PROFILE, 1)
    assert (log.status == Status.SERVED).all()
    assert np.argsort(log.start_s).tolist() == [0, 2, 4, 1, 3]


def test_an_installed_policy_is_searched_without_being_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "installed_shortest.py").write_text(FILE.read_text())
    about = tmp_path / "shortest-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: shortest\nVersion: 1\n")
    (about / "entry_points.txt").write_text(
        f"[{policies.GROUP}]\nshortest-first = installed_shortest:ShortestFirst\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    installed.cache_clear()
    try:
        assert "shortest-first" not in registry.POLICIES
        described = {"policy": "shortest-first", "batch_size": 8, "offload_above": None}
        assert from_description(described).describe() == described
        registry.POLICIES.pop("shortest-first")
        assert "shortest-first" in [kind.name for kind in policies_to_search()]
        assert policy_of("shortest-first", 64, None, **GIVEN).batch_size == 64
    finally:
        installed.cache_clear()


def test_a_search_by_model_varies_the_knob_that_it_declares() -> None:
    kind = class_of(TEXT)[0]
    search = model_search((1, 2, 4, 8, 16, 32), kinds=policies_to_search())
    while (policy := search.ask()) is not None:
        qps = 100.0 - abs(policy.batch_size - 11) if isinstance(policy, kind) else 50.0
        search.tell(policy, Score.exactly(qps))
    assert search.best is not None
    assert search.best.policy == kind(11)  # type: ignore[call-arg] # between the rungs 8 and 16


def test_live_retuning_searches_it_in_a_process_of_its_own() -> None:
    present = policy_of(TEXT, 1000, None, **GIVEN)
    question = Question(PROFILE, [4] * 50, 2, TARGET, 1000, present, 1000)

    async def scenario() -> Any:
        resimulator = Resimulator()
        try:
            return await resimulator.best(question)
        finally:
            await resimulator.close()

    found = asyncio.run(scenario())
    assert found == best_policy(question)
    assert found.capacity_qps >= found.present_qps > 0


def profile_file(folder: Path, batch_ms: float = 1.0, item_ms: float = 0.05) -> str:
    points = [{"batch": b, "seconds": [1e-3 * (batch_ms + item_ms * b)]} for b in (1, 20)]
    engine = f"wait:{batch_ms:g},{item_ms:g}"
    (folder / "p.json").write_text(json.dumps({"model": "ncf", "engine": engine, "points": points}))
    return str(folder / "p.json")


def test_simulate_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["simulate", "--profile", profile_file(tmp_path), "--policy", TEXT, "--sizes", "fixed:20",
             "--sla-ms", "20", "--rate", "100", "--queries", "2000", "--json", "-"]  # fmt: skip
    assert call(*given) == 0
    doc = json.loads(capsys.readouterr().out)
    assert (doc["policy"], doc["served"]) == ("shortest-first", 1.0)


SMALL = ["ncf", "--rows-scale", "0.01", "--engine", "wait:1,0.05", "--workers", "1", "--sla-ms", "40"]


@pytest.mark.alone
def test_bench_runs_it_on_a_live_node(capsys: pytest.CaptureFixture[str]) -> None:
    load = ["--rate", "50", "--duration", "1", "--batch-size", "500"]
    assert call("bench", *SMALL, *load, "--policy", TEXT, "--json", "-") == 0
    doc = json.loads(capsys.readouterr().out)
    assert (doc["policy"], doc["batch_size"], doc["served"]) == ("shortest-first", 500, 1.0)


@pytest.mark.live
def test_tune_searches_it_and_confirms_what_it_finds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Few queries fit into a target, so that trials of many targets are of few queries."""
    profile = profile_file(tmp_path, 3.0, 0.1)
    given = ["tune", "ncf", "--rows-scale", "0.01", "--engine", "wait:3,0.1", "--workers", "1", "--sla-ms",
             "40", "--profile", profile, "--policy", TEXT, "--sizes", "normal:10,4,20"]  # fmt: skip
    assert call(*given, "--budget", "1", "--json", "-") == 0
    doc = json.loads(capsys.readouterr().out)
    tried = [c for c in doc["candidates"] if c["policy"] == "shortest-first"]
    assert len({c["batch_size"] for c in tried}) > 1
    assert doc["tuned"]["qps"] > 0


@pytest.mark.live
def test_a_service_runs_it_and_retunes_from_it() -> None:
    from tests.serve.harness import Heard, ask_any, changed, run, service

    policy = policy_of(TEXT, 1000, None, **GIVEN)

    async def scenario() -> None:
        config = changed(engine="wait:2,0.1", profile=PROFILE, target=TARGET, policy=policy)
        async with service(config, workers=2) as s:
            heard = Heard(s)
            retuner = Retuner(s, RetuneSettings(least_queries=20, hold_s=0.0, path_queries=1000))
            served = s._served["dlrm-rmc1"]
            assert s.point("dlrm-rmc1").policy == "shortest-first"
            await asyncio.gather(*(ask_any(s, items=4) for _ in range(20)))
            now = time.monotonic()
            served.offered.extend((now - 1 + 0.01 * i, 4) for i in range(90))
            try:
                await retuner.look(served)
                ((name, point),) = heard.points
                assert name == "dlrm-rmc1"
                assert point.policy != "shortest-first", "merging small queries carries more"
            finally:
                await retuner._simulation.close()

    run(scenario())


def test_a_policy_by_another_name_is_not_mistaken(tmp_path: Path) -> None:
    (tmp_path / "thief.py").write_text(FILE.read_text().replace('"shortest-first"', '"static"'))
    with pytest.raises(InputError, match="policy static: expected a name that is not taken"):
        class_of(f"{tmp_path}/thief.py:ShortestFirst")
    assert isinstance(policy_of("deeprecsched", 8, None, **GIVEN), DeepRecSched)

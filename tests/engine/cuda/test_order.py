"""Copies, kernels and the host's accesses are ordered by events: on streams of a model that finds races."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from deeprecsys.engine.cuda import engine as module
from deeprecsys.engine.protocol import SliceView
from tests.engine.cuda.conftest import assembly, expected, slices_of
from tests.engine.cuda.races import RaceError, Streams

SOURCE = Path(module.__file__)


def recorded(
    which: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[module.DeviceEngine, Streams]:
    """An engine on recording streams, its passes of at most 8 items."""
    streams = Streams()
    monkeypatch.setattr(which, "queues", lambda *_: streams)
    engine = which.DeviceEngine(assembly(name), "cpu", precision="fp32", largest=8)
    streams.watch(engine)
    return engine, streams


def batches(name: str, seed: int, count: int) -> list[list[SliceView]]:
    """Random batches: one to six slices of up to 30 items, so that most take several passes."""
    rng = np.random.default_rng(seed)

    def span() -> tuple[int, int]:
        start = int(rng.integers(0, 40))
        return start, start + int(rng.integers(1, 31))

    spans = [[span() for _ in range(rng.integers(1, 7))] for _ in range(count)]
    return [slices_of(assembly(name), batch, seed + k) for k, batch in enumerate(spans)]


def score_all(engine: module.DeviceEngine, given: list[list[SliceView]]) -> None:
    for batch in given:
        engine.score(batch)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["dlrm-rmc1", "wnd", "din"])
def test_no_buffer_is_touched_before_an_event_says_that_it_is_free(
    name: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, streams = recorded(module, name, monkeypatch)
    for batch in batches(name, 100 * seed, 6):
        engine.score(batch)
        for s, y in zip(batch, expected(assembly(name), batch), strict=True):
            np.testing.assert_allclose(s.out, y, atol=1e-4)
    assert streams.accesses > 100, "or nothing was seen"


def test_batches_that_fail_in_the_middle_leave_nothing_unordered(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = recorded(module, "ncf", monkeypatch)
    for k, batch in enumerate(batches("ncf", 7, 12)):
        if k % 2:
            middle = len(batch) // 2
            batch[middle] = batch[middle]._replace(first=dict.fromkeys(batch[middle].first, 599))
            batch[middle] = batch[middle]._replace(start=0, stop=20, out=np.zeros((20, 1), np.float32))
            with pytest.raises(ValueError, match="broadcast"):
                engine.score(batch)
        else:
            engine.score(batch)


MUTANTS = {
    "compute does not wait for the copy": ('q.on("compute", arrived)', 'q.on("compute")'),
    "copying out does not wait for compute": ('q.on("copy_out", computed)', 'q.on("copy_out")'),
    "the host does not wait for the scores": ("        ticket.done.wait()\n", ""),
    "the host waits for compute alone": ("ticket.done.wait()", "ticket.computed.wait()"),
    "compute waits for the pass, not the copy": ("arrived = q.mark", "arrived = began; q.mark"),
    "three passes under way on two slots": ("len(waiting) == SLOTS", "len(waiting) == SLOTS + 1"),
    "one slot for two passes": ("(self._slot + 1) % SLOTS", "0"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_of_the_engine_races(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old, new = MUTANTS[name]
    text = SOURCE.read_text()
    assert text.count(old) == 1
    file = tmp_path / "mutant.py"
    file.write_text(text.replace(old, new))
    spec = importlib.util.spec_from_file_location("mutant_of_the_engine", file)
    assert spec is not None
    assert spec.loader is not None
    mutant = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mutant)
    engine, _ = recorded(mutant, "dlrm-rmc1", monkeypatch)
    with pytest.raises(RaceError):
        score_all(engine, batches("dlrm-rmc1", 3, 6))

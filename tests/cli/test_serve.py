"""`deeprecsys serve`, with a network face of the test's own in place of the real one."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("uvloop", reason="the extra `serve` is not installed")

from deeprecsys.cli import cli
from deeprecsys.core.errors import InputError
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.node.service.backend import Reason, RefusedError
from tests.fixtures.commands import RELEASE


def profile_of(model: str, folder: Path, **more: object) -> str:
    points = (Point(1, 1, (1e-3,)), Point(1, 100, (5e-3,)))
    file = folder / f"{model.rpartition(':')[2]}.json"
    file.write_text(json.dumps(LatencyProfile(model, points, engine="wait:1,0.05", **more).to_json()))
    return str(file)


@pytest.fixture
def logs() -> Iterator[None]:
    """Leaves logging as it was."""
    root, uvicorn = logging.getLogger(), logging.getLogger("uvicorn.error")
    handlers, level, least = root.handlers[:], root.level, uvicorn.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    uvicorn.setLevel(least)


@pytest.fixture
def faces(monkeypatch: pytest.MonkeyPatch, logs: None) -> list[object]:
    """What the face was given; it asks one query, and SIGTERM while another is open ends it."""
    seen: list[object] = []

    async def query(backend, name):
        seat = backend.reserve(name, 8, arrival_s=time.monotonic())
        try:
            return (await backend.score(seat)).shape
        finally:
            backend.release(seat)

    async def face(backend, *, host, http_port, grpc_port, stop, ready, repository):
        assert repository is None, "no directory of weights is given"
        ready(1234, 5678)
        seen.append((host, http_port, grpc_port, list(backend.models), backend.ready))
        for name in backend.models:
            seen.append(await query(backend, name))
        last = asyncio.create_task(query(backend, name))
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(stop.wait(), 20)
        with pytest.raises(RefusedError) as refused:
            await query(backend, name)
        assert refused.value.reason is Reason.DRAINING
        seen.append(("drained", await last, backend.ready))

    app = types.ModuleType("deeprecsys.serve.app")
    app.serve_forever = face  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "deeprecsys.serve.app", app)

    async def cost(backend, name, sizes, connections, seconds):
        assert (min(sizes) > 0, connections >= 2, seconds) == (True, True, 1.5)
        return 4e-4

    measuring = types.ModuleType("deeprecsys.serve.face_cost")
    measuring.face_seconds = cost  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "deeprecsys.serve.face_cost", measuring)
    return seen


def serve(*arguments: str) -> None:
    cli.main(["serve", *arguments], standalone_mode=False)


@pytest.mark.live
def test_two_models_are_tuned_served_and_drained(faces, tmp_path, capsys) -> None:
    files = [profile_of(m, tmp_path) for m in ("ncf", "wnd")]
    serve(
        "ncf", "wnd", "--profile", files[0], "--profile", files[1], "--rows-scale", "0.001", "--sla-ms",
        "200", "--workers", "2", "--spares", "0", "--sizes", "fixed:64", "--http-port", "0",
    )  # fmt: skip
    assert faces == [
        ("127.0.0.1", 0, 8001, ["ncf", "wnd"], True),
        (8, 1),
        (8, 1),
        ("drained", (8, 1), False),
    ]
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("ncf: p95 within 200 ms on 2 workers, wait:1,0.05 fp32: ")
    assert "tuned in virtual time for fixed:64 sizes" in said[0]
    assert "queries/s, simulated" in said[0]
    assert said[2] == "serving ncf, wnd on 2 workers: http://127.0.0.1:1234, gRPC 127.0.0.1:5678"


@pytest.mark.live
def test_a_policy_that_is_given_is_pinned(faces, tmp_path, capsys) -> None:
    serve(
        "ncf", "--profile", profile_of("ncf", tmp_path), "--rows-scale", "0.001", "--workers", "1",
        "--spares", "0", "--policy", "coalescing:4", "--batch-size", "32", "--no-retune", "--sla-ms", "200",
    )  # fmt: skip
    said = capsys.readouterr().out
    assert "(given on the command line); load it can carry: " in said
    usual = "the usual margin, as no run measured this machine's drift"
    assert f"queries/s, simulated, also if batches take 10 % longer ({usual}); limited by the workers" in said
    assert "the network face takes 0.4 ms per query of " in said


@pytest.mark.live
def test_a_run_of_tune_is_served_as_it_was_tuned(faces, capsys) -> None:
    run = RELEASE / "tune"
    serve("--from", str(run), "--spares", "0", "--http-port", "0")
    assert faces[0] == ("127.0.0.1", 0, 8001, ["ncf"], True)
    said = capsys.readouterr().out.splitlines()[0]
    assert said.startswith("ncf: p95 within 100 ms on 1 worker, wait:8 fp32: ")
    tuned = json.loads((run / "result.json").read_text())["tuned"]
    assert f"batch size {tuned['batch_size']}" in said
    assert f"(tuned, --from {run})" in said


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["nfc"], "did you mean 'ncf'"),
        (["ncf", "ncf"], "expected each once"),
        (["ncf", "--engine", "null"], "--engine: expected wait:1,0.05, of the profile of ncf, got null"),
        (["ncf", "--threads", "2"], "--threads: expected 1, of the profile of ncf, got 2"),
        (["ncf", "--margin", "-1"], "--margin: expected a percentage from 0 to below 100, got -1"),
        (["ncf", "--face-test", "-1"], "--face-test: expected"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(faces, tmp_path, arguments, why) -> None:
    options = [] if "nfc" in arguments else ["--profile", profile_of("ncf", tmp_path)]
    with pytest.raises(InputError, match=why):
        serve(*arguments, *options)


ON_CPU = "tests.engine.devices:OnCpu"


@pytest.mark.live
def test_an_accelerator_is_measured_tuned_shown_and_used(faces, tmp_path, capsys) -> None:
    serve(
        "ncf", "--profile", profile_of("ncf", tmp_path), "--rows-scale", "0.001", "--sla-ms", "200",
        "--workers", "1", "--spares", "0", "--sizes", "normal:60,20,100", "--gpu", ON_CPU,
    )  # fmt: skip
    said = capsys.readouterr().out.splitlines()
    assert f"on 1 worker and 1 accelerator, wait:1,0.05 and {ON_CPU} fp32: " in said[0]
    assert re.search(r"batch size \d+, offload above \d+ items.* \(tuned in virtual time for normal", said[0])
    assert said[1].startswith("serving ncf on 1 worker and 1 accelerator: http://127.0.0.1:1234")
    assert faces[1:3] == [(8, 1), ("drained", (8, 1), False)]


@pytest.mark.live
def test_a_threshold_that_is_given_is_pinned(faces, tmp_path, capsys) -> None:
    gpu = LatencyProfile("ncf", (Point(1, 1, (1e-4,)), Point(1, 100, (2e-4,))), engine=ON_CPU)
    (tmp_path / "gpu.json").write_text(json.dumps(gpu.to_json()))
    serve(
        "ncf", "--profile", profile_of("ncf", tmp_path), "--profile", str(tmp_path / "gpu.json"), "--gpu",
        ON_CPU, "--gpus", "2", "--offload-above", "4", "--batch-size", "32", "--rows-scale", "0.001",
        "--workers", "1", "--spares", "0", "--isa", "sse42", "--no-retune",
    )  # fmt: skip
    said = capsys.readouterr().out
    assert "on 1 worker and 2 accelerators" in said
    assert "batch size 32, offload above 4 items (given on the command line)" in said
    assert faces[1] == (8, 1), "scored on the accelerator"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--gpu", "emulated:gtx-1080-ti"], "gpu: expected an engine that scores, got emulated:gtx-1080-ti"),
        (["--offload-above", "10"], "--offload-above: expected --gpu with it, got 10 without"),
        (
            ["--gpu", "cuda", "--policy", "adaptive", "--offload-above", "9"],
            "--offload-above: expected polic",
        ),
    ],
)
def test_an_accelerator_that_cannot_be_is_refused(faces, tmp_path, arguments, why) -> None:
    gpu = LatencyProfile("ncf", (Point(1, 1, (1e-4,)), Point(1, 100, (2e-4,))), engine="cuda")
    (tmp_path / "gpu.json").write_text(json.dumps(gpu.to_json()))
    files = ["--profile", profile_of("ncf", tmp_path)]
    if "cuda" in arguments:
        files += ["--profile", str(tmp_path / "gpu.json")]
    with pytest.raises(InputError, match=why):
        serve("ncf", *files, *arguments)


LISTWISE = "tests.custom.models:ListwiseAlone"


@pytest.mark.live
def test_a_model_that_scores_items_together_is_served_whole(faces, tmp_path, capsys) -> None:
    serve(
        LISTWISE, "--profile", profile_of(LISTWISE, tmp_path), "--sla-ms", "200", "--workers", "2",
        "--spares", "0", "--sizes", "fixed:64", "--http-port", "0",
    )  # fmt: skip
    assert faces[0] == ("127.0.0.1", 0, 8001, ["ListwiseAlone"], True)
    said = capsys.readouterr().out.splitlines()[0]
    assert "batch size 64 (an item's score depends on the other items" in said
    assert "queries/s, simulated" in said


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([LISTWISE, "--policy", "adaptive"], "--policy: expected one of deeprecsched, static, triton"),
        ([LISTWISE, "--batch-size", "8"], "--batch-size: expected none or at least the largest query, 64"),
        ([LISTWISE, "ncf", "--weights", "x.pt"], "--weights: expected one MODEL, or MODEL@FILE for each"),
        (["ncf", "--weights", "x.pt"], "--weights: expected a model of your own"),
        ([LISTWISE, f"other.{LISTWISE}"], "MODEL: expected each once, got ListwiseAlone, ListwiseAlone"),
    ],
)
def test_what_an_own_model_cannot_do_is_refused(faces, tmp_path, arguments, why) -> None:
    options = ["--profile", profile_of(LISTWISE, tmp_path)] if len(arguments) == 3 else []
    with pytest.raises(InputError, match=why):
        serve(*arguments, *(options if arguments[0] == LISTWISE else ()), "--sla-ms", "50",
              "--sizes", "fixed:64", "--workers", "1")  # fmt: skip


def test_a_profile_of_a_model_that_is_not_served_is_refused(faces, tmp_path) -> None:
    with pytest.raises(InputError, match="expected a profile of ncf, got one of wnd"):
        serve("ncf", "--profile", profile_of("wnd", tmp_path))

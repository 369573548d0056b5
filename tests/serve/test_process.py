"""`deeprecsys serve` as a process: unmodified clients in, the engine's scores out, nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as over_grpc

from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.engine import Assembly, SliceView, build
from deeprecsys.serve.addresses import listen
from deeprecsys.zoo import model
from deeprecsys.zoo.tables import fill
from tests.serve.harness import features
from tests.serve.test_http import wait_for
from tests.serve.test_tritonclient import over_http, tensors

MODELS = ("ncf", "wnd")
SCALE, SEED = 0.01, 7


@dataclass
class Server:
    process: subprocess.Popen[str]
    http: str
    grpc: str
    log: Path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path, "-m", "deeprecsys") as found:
        yield found


@contextmanager
def serving(tmp_path: Path, *command: str) -> Iterator[Server]:
    """The command line's `serve`, as the interpreter's arguments start it."""
    files = []
    for name in MODELS:  # times that nobody measured: the test asks for scores
        points = (Point(1, 1, (1e-4,)), Point(1, 1000, (5e-3,)))
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(LatencyProfile(name, points, engine="compiled").to_json()))
    given = [x for f in files for x in ("--profile", str(f))]
    log = tmp_path / "log"
    with log.open("w") as said:
        process = subprocess.Popen(
            [
                sys.executable, *command, "serve", *MODELS, "--rows-scale", str(SCALE), "--sla-ms",
                "20000", "--workers", "2", "--seed", str(SEED), "--http-port", "0", "--grpc-port", "0",
                *given,
            ],
            stdout=subprocess.PIPE, stderr=said, text=True,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        found = None
        for line in process.stdout:
            if found := re.search(r"serving ncf, wnd on 2 workers: http://(\S+), gRPC (\S+)", line):
                break
        assert found, log.read_text()
        yield Server(process, found[1], found[2], log)
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def engine_scores(name: str, query: dict[str, np.ndarray], items: int) -> np.ndarray:
    """What the reference engine says, called directly."""
    m = model(name).scaled(SCALE)
    tables = {t.name: np.empty((t.rows, t.dim), np.float32) for t in m.schema.tables}
    for i, table in enumerate(tables.values()):
        fill(table, seed=(SEED, i))
    out = np.empty((items, m.schema.outputs), np.float32)
    build("eager", Assembly(m, tables, query, SEED)).score(
        [SliceView(dict.fromkeys(query, 0), 0, items, out)]
    )
    return out


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.live
def test_clients_get_the_engines_scores_and_sigterm_drains(server: Server) -> None:
    clients: tuple[tuple[Any, Any], ...] = (
        (over_http, over_http.InferenceServerClient(server.http, network_timeout=120)),
        (over_grpc, over_grpc.InferenceServerClient(server.grpc)),
    )
    sizes = (1, 37, 500)
    for name in MODELS:
        for items in sizes:
            query = features(model(name).scaled(SCALE).schema, items, items)
            wanted = engine_scores(name, query, items)
            for kind, client in clients:
                found = client.infer(name, tensors(kind, query)).as_numpy("scores")
                np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=1e-3)
    for kind, client in clients:
        assert client.is_server_ready()
        for name in MODELS:
            more = {"as_json": True} if kind is over_grpc else {}
            stats = client.get_inference_statistics(name, **more)["model_stats"][0]
            assert int(stats["inference_count"]) == 2 * sum(sizes)
            assert int(stats["inference_stats"]["success"]["count"]) == 2 * len(sizes)
        client.close()
    children = descendants(server.process.pid)
    assert len(children) >= 2
    os.kill(server.process.pid, signal.SIGTERM)
    assert server.process.wait(60) == 0, server.log.read_text()
    wait_for(lambda: not any(alive(pid) for pid in children))
    logged = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    assert [d["message"] for d in logged if d["logger"].startswith("deeprecsys")][-1] == "stopped"


ONE_LOOK = """
from dataclasses import replace
from deeprecsys.api import serve
from deeprecsys.api.retuning.retuner import Retuner
from deeprecsys.cli import main

class Once(Retuner):
    async def look(self, served):
        await super().look(served)
        if self._simulation._process:
            self._settings = replace(self._settings, every_s=3600.0)
            print("looked", self._simulation._process.pid, flush=True)

settings = serve.RetuneSettings(every_s=0.5, least_queries=5)
serve.RetuneSettings, serve.Retuner = lambda: settings, Once
main()
"""


@pytest.mark.live
def test_sigterm_ends_well_after_the_simulations_process_was_killed_at_rest(tmp_path: Path) -> None:
    with serving(tmp_path, "-c", ONE_LOOK) as server:
        client = over_http.InferenceServerClient(server.http, network_timeout=120)
        query = features(model("ncf").scaled(SCALE).schema, 3, 3)
        for _ in range(20):
            client.infer("ncf", tensors(over_http, query))
        assert server.process.stdout is not None
        word, pid = server.process.stdout.readline().split()
        assert word == "looked"
        os.kill(int(pid), signal.SIGKILL)
        wait_for(lambda: not alive(int(pid)))
        assert client.is_server_ready()
        client.close()
        os.kill(server.process.pid, signal.SIGTERM)
        assert server.process.wait(60) == 0, server.log.read_text()


def test_connections_send_at_once() -> None:
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

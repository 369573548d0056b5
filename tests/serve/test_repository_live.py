"""Weights loaded, unloaded and updated from outside, by clients of the protocol, while queries come."""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.grpc as over_grpc

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tritonclient.http as over_http
from tritonclient.utils import InferenceServerException

from deeprecsys.api.load import load
from deeprecsys.core.errors import InputError, NodeError
from deeprecsys.node.runtime import tables as runtime_tables
from deeprecsys.node.service.service import Service
from deeprecsys.serve.addresses import Admin
from deeprecsys.serve.app import serve_forever
from deeprecsys.serve.load.client import ConnectionPool, Response
from deeprecsys.serve.repository import Repository
from tests.serve.bodies import binary_body
from tests.serve.harness import SMALL, Reference, features, service
from tests.serve.test_swap_faults import held
from tests.serve.test_tritonclient import as_dict, tensors
from tests.serve.weight_files import NAME, dense, write
from tests.serve.weight_files import tensors as weights

pytestmark = pytest.mark.live

TOKEN = "a-token-of-some-length"
AUTH = {"authorization": f"Bearer {TOKEN}"}


@dataclass
class Live:
    service: Service
    http: str
    grpc: str
    loop: asyncio.AbstractEventLoop
    folder: Path

    def call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(120)

    @property
    def version(self) -> str:
        return self.service.models[NAME].version


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("weights")
    for version in (2, 3):
        write(folder / NAME / f"{version}" / "weights.safetensors", weights(version))
    write(folder / "dense-4.safetensors", dense(4))
    up, found = threading.Event(), []

    async def run() -> None:
        stop = asyncio.Event()
        async with service(replace(SMALL, engine="eager"), workers=1) as s:

            def ready(http: int, grpc: int) -> None:
                at = f"127.0.0.1:{http}", f"127.0.0.1:{grpc}"
                found.append(Live(s, *at, asyncio.get_running_loop(), folder))
                found.append(stop)
                up.set()

            await serve_forever(
                s, host="127.0.0.1", http_port=0, grpc_port=0, stop=stop, ready=ready,
                repository=lambda counters: Repository(s, counters, Admin(folder, token=TOKEN)),
            )  # fmt: skip

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert up.wait(60)
    yield found[0]
    found[0].loop.call_soon_threadsafe(found[1].set)
    thread.join(40)
    assert not thread.is_alive()


@pytest.fixture(params=["http", "grpc"])
def client(request: pytest.FixtureRequest, live: Live) -> Iterator[Any]:
    kind = over_http if request.param == "http" else over_grpc
    made = kind.InferenceServerClient(live.http if kind is over_http else live.grpc)
    made.kind = kind
    yield made
    made.close()


def infer(client: Any, live: Live, version: str = "") -> np.ndarray:
    query = features(live.service.models[NAME].schema, 8, 1)
    result = client.infer(NAME, tensors(client.kind, query), model_version=version)
    return result.as_numpy("scores")


def specific(version: int) -> str:
    return json.dumps({"version_policy": {"specific": {"versions": [version]}}})


def index(client: Any) -> list[tuple[str, str]]:
    doc: Any = as_dict(client, "get_model_repository_index")
    return [(m["version"], m["state"]) for m in (doc["models"] if client.kind is over_grpc else doc)]


def test_unmodified_clients_load_roll_back_and_unload(client: Any, live: Live) -> None:
    with pytest.raises(InferenceServerException, match="expected Bearer") as e:
        client.load_model(NAME)
    assert e.value.status() in ("401", "StatusCode.UNAUTHENTICATED")
    client.load_model(NAME, headers=AUTH, config=specific(2))
    assert index(client) == [("2", "READY")]
    second = infer(client, live)
    keep = json.dumps(
        {"version_policy": {"specific": {"versions": [3]}}, "parameters": {"keep": {"string_value": "true"}}}
    )
    client.load_model(NAME, headers=AUTH, config=keep)
    assert index(client) == [("2", "READY"), ("3", "READY")]
    third = infer(client, live)
    assert np.abs(third - second).max() > 1e-3
    np.testing.assert_array_equal(infer(client, live, "2"), second)
    np.testing.assert_array_equal(infer(client, live, "3"), third)
    client.load_model(NAME, headers=AUTH, config=specific(2))  # held: back in one call
    np.testing.assert_array_equal(infer(client, live), second)
    with pytest.raises(InferenceServerException, match="expected version 2, got '3'"):
        infer(client, live, "3")
    client.load_model(NAME, headers=AUTH)  # the newest of the directory
    client.load_model(NAME, headers=AUTH)  # and once more, which changes nothing
    np.testing.assert_array_equal(infer(client, live), third)
    client.unload_model(NAME, headers=AUTH)
    assert index(client) == [("3", "UNAVAILABLE")]
    assert not client.is_model_ready(NAME)
    with pytest.raises(InferenceServerException, match="the model is unloaded"):
        infer(client, live)
    client.load_model(NAME, headers=AUTH, config=specific(3))
    np.testing.assert_array_equal(infer(client, live), third)


class Load:
    """Queries in a row until the block ends; `lost` are those without scores."""

    def __init__(self, live: Live) -> None:
        self._live, self._stop = live, threading.Event()
        self.answered, self.lost = 0, []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        host, _, port = self._live.http.partition(":")
        pool = ConnectionPool(host, int(port))
        head, raw = binary_body(features(self._live.service.models[NAME].schema, 8, 1))
        named = ("Inference-Header-Content-Length", str(len(head)))
        while not self._stop.is_set():
            answer: Response = await pool.request("POST", f"/v2/models/{NAME}/infer", head + raw, named)
            self.answered += 1
            if answer.status != 200:
                self.lost.append(answer.body)
            await asyncio.sleep(0.005)
        pool.close()

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)


def refused(live: Live, **parameters: Any) -> str:
    """The reason for which a load is refused."""
    token = live.folder.parent / "token"
    token.write_text(TOKEN)
    with pytest.raises((InputError, NodeError)) as e:
        load(NAME, url=live.http, token=token, **parameters)
    return str(e.value)


def test_loads_that_must_fail_say_why_under_load_and_leave_nothing(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, folder = weights(9), live.folder
    shape = {**good, "table_0": good["table_0"][:-1].clone()}
    missing = {k: v for k, v in good.items() if k != "table_1"}
    no_dense = {k: v for k, v in good.items() if k != "top.0.weight"}
    nan = {**good, "table_1": good["table_1"].clone()}
    nan["table_1"][1, 1:3] = np.nan
    nan_dense = {**good, "top.0.weight": good["top.0.weight"] * np.nan}
    tables = {k: v for k, v in good.items() if k.startswith("table_")}
    more = {**good, "other": good["table_0"].clone()}
    for name, found in (
        ("shape", shape), ("missing", missing), ("no_dense", no_dense), ("nan", nan),
        ("nan_dense", nan_dense), ("tables", tables), ("more", more), ("cut", good),
    ):  # fmt: skip
        write(folder / f"{name}.safetensors", found)
    os.truncate(folder / "cut.safetensors", 100_000)
    (folder / "text.safetensors").write_text("no tensors")
    os.mkfifo(folder / "pipe.safetensors")
    write(folder.parent / "outside.safetensors", good)
    (folder / "link.safetensors").symlink_to(folder.parent / "outside.safetensors")
    (folder / "inner.safetensors").symlink_to("cut.safetensors")
    serves = live.version
    with Load(live) as queries:
        while queries.answered < 5:
            time.sleep(0.01)
        before = live.call(_held(live.service))
        for name, why in (
            ("shape", r"'table_0': expected F16/F32/F64/BF16 \["),
            ("missing", r"expected a key 'table_1.weight', got"),
            ("no_dense", r"dense stage: expected a key 'top.0.weight', got"),
            ("nan", r"table 'table_1': expected finite numbers, got 2 that are infinite or NaN"),
            ("nan_dense", r"'top.0.weight': expected finite numbers, got"),
            ("tables", r"expected weights of the dense stage too, got tables alone"),
            ("more", r"expected no keys but those of tables and dense stage, got also other"),
            ("cut", r"in a file of 100000, which was cut short"),
            ("inner", r"in a file of 100000, which was cut short"),
            ("text", r"expected a file of tensors \(safetensors\), got"),
            ("pipe", r"got: Is a pipe"),
            ("absent", r"got: No such file or directory"),
            ("../outside", r"got: a path with '..' or a NUL byte"),
            ("link", r"got: a path that leads out of it"),
            (str(folder.parent / "outside"), r"got: a path that leads out of it"),
        ):
            said = refused(live, weights=f"{name}.safetensors", version="9")
            assert re.search(why, said), (name, said)
            assert "\n" not in said
        assert "not held" in refused(live, weights="nan.safetensors", version=serves)
        live.service._weight_swap.draining = True
        assert refused(live, version="2") == "the server is stopping"
        live.service._weight_swap.draining = False
        monkeypatch.setattr(runtime_tables, "available_bytes", lambda: 1000)
        assert "do not fit" in refused(live, weights=f"{NAME}/2/weights.safetensors", version="9")
        monkeypatch.undo()
        assert live.version == serves
        until_s = time.monotonic() + 20
        while live.call(_held(live.service)) != before and time.monotonic() < until_s:
            time.sleep(0.05)
        assert live.call(_held(live.service)) == before
    assert queries.answered > 20
    assert queries.lost == []


def rows_body(**tables: tuple[Any, Any]) -> tuple[bytes, bytes]:
    """Head and data of new rows, ids and values by table."""
    found = {}
    for name, (ids, values) in tables.items():
        found |= {f"{name}.ids": np.asarray(ids, np.int64), f"{name}.values": np.asarray(values, np.float32)}
    return binary_body(found)


def post_rows(live: Live, body: bytes, *headers: tuple[str, str]) -> tuple[int, Any]:
    async def call() -> Response:
        host, _, port = live.http.partition(":")
        pool = ConnectionPool(host, int(port))
        sent = ("Authorization", AUTH["authorization"])
        try:
            return await pool.request("POST", f"/v2/repository/models/{NAME}/rows", body, sent, *headers)
        finally:
            pool.close()

    answer = asyncio.run(call())
    return answer.status, json.loads(answer.body)


def head_of(head: bytes) -> tuple[str, str]:
    return "Inference-Header-Content-Length", str(len(head))


def test_rows_and_dense_weights_are_replaced_without_the_tables(live: Live) -> None:
    model = live.service._served[NAME]
    client = over_http.InferenceServerClient(live.http)
    client.kind = over_http
    client.load_model(NAME, headers=AUTH, config=specific(2))
    segment, second = model.current.tables, infer(client, live)
    assert load(NAME, url=live.http, token=live.folder.parent / "token", version="4",
                weights="dense-4.safetensors", keep_tables=True) == "4"  # fmt: skip
    assert model.current.tables is segment
    other = infer(client, live)
    assert np.abs(other - second).max() > 1e-3
    query = features(model.arena.schema, 8, 1)
    table = model.arena.schema.table("table_0")
    ids = np.unique(query["sparse_0"])
    values = np.random.default_rng(5).random((len(ids), table.dim), np.float32)
    head, raw = rows_body(table_0=(ids, values))
    assert post_rows(live, head + raw, head_of(head)) == (200, {"rows": len(ids)})
    changed = infer(client, live)
    assert np.abs(changed - other).max() > 1e-3
    expected = Reference(live.service, NAME, seed=4)(query)
    np.testing.assert_allclose(changed, expected, atol=1e-5)
    write(live.folder / "delta.safetensors", {"table_0.ids": torch.from_numpy(ids.astype(np.int64)),
                                              "table_0.values": torch.from_numpy(2 * values)})  # fmt: skip
    status, doc = post_rows(live, b'{"parameters": {"file": "delta.safetensors"}}')
    assert (status, doc) == (200, {"rows": len(ids)})
    np.testing.assert_allclose(infer(client, live), Reference(live.service, NAME, seed=4)(query), atol=1e-5)
    for (wrong_ids, wrong_values), why in (
        (([table.rows], values[:1]), rf"id 0: expected one in 0 … {table.rows - 1}, got {table.rows}"),
        (([-1], values[:1]), "got -1"),
        (([0], values[:1, :-1]), "expected 1 rows of"),
        (([0], values[:1] * np.nan), "expected finite numbers"),
    ):
        head, raw = rows_body(table_0=(wrong_ids, wrong_values))
        status, doc = post_rows(live, head + raw, head_of(head))
        assert (status, why in doc["error"]) == (400, True), doc
    client.close()


async def _held(s: Service) -> dict[str, int]:
    """What is held, but for descriptors and threads that connections come and go with."""
    found = held(s)
    return {k: found[k] for k in ("tables", "processes", "versions of workers")} | {
        "memory files": sum("memfd" in os.readlink(f"/proc/self/fd/{n}") for n in _fds())
    }


def _fds() -> list[str]:
    return [n for n in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{n}")]

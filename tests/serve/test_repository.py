"""The verbs that change weights: who may call them, what they take, and what goes on at a time."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from deeprecsys.api.load import load
from deeprecsys.api.serve import administered
from deeprecsys.core.errors import InputError, NodeError
from deeprecsys.node.service.backend import RefusedError
from deeprecsys.serve.addresses import Admin
from deeprecsys.serve.metrics.counters import Counters
from deeprecsys.serve.metrics.dashboard import live_document
from deeprecsys.serve.metrics.prometheus import exposition
from deeprecsys.serve.protocol.errors import ConflictError, RequestError
from deeprecsys.serve.repository import Repository
from tests.serve.loader import Loader, http
from tests.serve.weight_files import write


@pytest.fixture
def loader() -> Loader:
    return Loader.ready_to_load()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for version in ("2", "10"):
        rows = {"ads": torch.zeros(1000, 4), "d": torch.zeros(1)}
        write(tmp_path / "flat" / version / "weights.safetensors", rows)
    return tmp_path


@pytest.mark.parametrize("verb", ["load", "unload", "rows"])
def test_the_verbs_are_off_unless_they_are_asked_for(loader: Loader, folder: Path, verb: str) -> None:
    path = f"/v2/repository/models/flat/{verb}"
    for admin in (None, Admin(folder, verbs=False, watch=True)):
        status, doc, _ = http(loader, admin).post(path, b"{}")
        assert status == 403
        assert "started with --admin DIR" in doc["error"]
    direct = http(loader, Admin(folder, token="t" * 16))
    for headers, status in (
        ({}, 401),
        ({"authorization": "Bearer nonsense"}, 401),
        ({"authorization": "Bearer " + "t" * 16, "origin": "http://here", "host": "here"}, 403),
        ({"authorization": "Bearer " + "t" * 16}, 400 if verb == "rows" else 200),
    ):
        assert direct.post(path, b"{}", **headers)[0] == status


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"nonsense", "body: expected JSON"),
        (b"[]", "expected a JSON object with parameters"),
        (b'{"version": "2"}', "expected a JSON object with parameters"),
        (b'{"parameters": {"version": 2}}', "parameter version: expected a string, got 2"),
        (b'{"parameters": {"keep": "yes"}}', "parameter keep: expected true or false"),
        (b'{"parameters": {"weight": "x"}}', "parameter 'weight': expected one of version, weights"),
        (b'{"parameters": {"version": "../2"}}', "version: expected letters"),
        (b'{"parameters": {"version": "7"}}', "expected one that is held (1) or a file flat/7/weights"),
        (b'{"parameters": {"weights": "x.safetensors"}}', "version: expected one with weights"),
        (b'{"parameters": {"weights": "/etc/passwd", "version": "2"}}', "a path that leads out of it"),
        (b'{"parameters": {"weights": "flat/../../x", "version": "2"}}', "'..'"),
        (b'{"parameters": {"weights": "flat/2", "version": "2"}}', "Is a directory"),
        (b'{"parameters": {"weights": "flat\\u0000", "version": "2"}}', "NUL"),
        (b'{"parameters": {"file:1/model": "x"}}', "weights are read from --admin's directory"),
        (b'{"parameters": {"config": "["}}', "parameter config: expected a model configuration"),
    ],
)
def test_what_a_load_does_not_take(loader: Loader, folder: Path, body: bytes, why: str) -> None:
    direct = http(loader, Admin(folder))
    status, doc, _ = direct.post("/v2/repository/models/flat/load", body)
    assert (status, why in doc["error"]) == (400, True), doc
    assert direct.post("/v2/repository/models/none/load", b"")[0] == 404
    assert direct.post("/v2/repository/models/flat/other", b"")[0] == 404


def test_the_newest_version_is_by_number_and_a_refusal_stands_in_the_index(
    loader: Loader, folder: Path
) -> None:
    direct = http(loader, Admin(folder))

    def load(**parameters: Any) -> tuple[int, Any]:
        body = json.dumps({"parameters": parameters}).encode()
        return direct.post("/v2/repository/models/flat/load", body)[:2]

    assert load() == (200, {"version": "10"})
    assert load() == (200, {"version": "10"})
    assert load(version="2", keep=True) == (200, {"version": "2"})
    assert load(version="10", weights="flat/2/weights.safetensors")[0] == 409, "held, of other weights"
    loader.error = InputError("weights of flat: no good")
    write(folder / "flat" / "11" / "weights.safetensors", {"ads": torch.zeros(1000, 4), "d": torch.zeros(1)})
    assert load() == (400, {"error": "weights of flat: no good"})
    index = [m for m in direct.post("/v2/repository/index", b"")[1] if m["name"] == "flat"]
    assert [(m["version"], m["state"]) for m in index] == [
        ("10", "READY"), ("2", "READY"), ("11", "UNAVAILABLE"),
    ]  # fmt: skip
    assert index[-1]["reason"] == "weights of flat: no good"
    loader.error = NodeError("the server is stopping")
    status, _, headers = direct.post("/v2/repository/models/flat/load", b"")
    assert (status, int(headers["retry-after"]) > 0) == (503, True)
    text = exposition(loader, direct.watch)[1].decode()
    assert 'deeprecsys_loads_total{model="flat",result="refused"} 3.0' in text
    assert 'deeprecsys_version{model="flat",state="READY",version="2"} 1.0' in text
    assert 'deeprecsys_last_load_ok{model="flat"} 0.0' in text
    last = live_document(loader, direct.watch)["models"][1]["versions"]["last_load"]
    assert (last["version"], last["refused"]) == ("11", "the server is stopping")


def test_one_load_at_a_time_which_goes_on_without_its_caller(loader: Loader, folder: Path) -> None:
    async def scenario() -> None:
        loader.go = asyncio.Event()
        repository = Repository(loader, Counters(), Admin(folder))
        first = asyncio.create_task(repository.load("flat", {"version": "2"}))
        while "flat" not in repository._busy:
            await asyncio.sleep(0.001)
        with pytest.raises(ConflictError, match="got a load of version 2: try again"):
            await repository.load("flat", {"version": "10"})
        with pytest.raises(ConflictError):
            await repository.unload("flat", {})
        first.cancel()
        await asyncio.wait([first])
        loader.go.set()
        while repository._busy:
            await asyncio.sleep(0.001)
        assert loader.models["flat"].version == "2"

    asyncio.run(scenario())


def test_a_watched_directory_is_followed_upwards_and_a_refused_file_is_tried_once(
    loader: Loader, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[Repository.__module__], "WATCH_S", 0.001)
    counters = Counters()

    async def until(result: str, count: int) -> None:
        while counters.of("flat").loads[result] < count:
            await asyncio.sleep(0.002)

    async def scenario() -> None:
        repository = Repository(loader, counters, Admin(folder, verbs=False, watch=True))
        watching = asyncio.create_task(repository.watch())
        await until("loaded", 1)
        assert loader.models["flat"].version == "10"
        bad = folder / "flat" / "11" / "weights.safetensors"
        bad.parent.mkdir()
        bad.write_text("no tensors")
        await until("refused", 1)
        await asyncio.sleep(0.05)
        assert counters.of("flat").loads["refused"] == 1
        write(bad, {"ads": torch.zeros(1000, 4), "d": torch.zeros(1)})
        await until("loaded", 2)
        assert loader.models["flat"].version == "11"
        watching.cancel()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_who_may_administrate_is_settled_at_the_start(tmp_path: Path) -> None:
    token, short = tmp_path / "token", tmp_path / "short"
    token.write_text("x" * 20 + "\n")
    short.write_text("x")
    assert administered("127.0.0.1", None, None, None) is None
    assert administered("0.0.0.0", tmp_path, token, None) == Admin(tmp_path, token="x" * 20)
    assert administered("0.0.0.0", None, None, tmp_path) == Admin(tmp_path, verbs=False, watch=True)
    for arguments, why in (
        (("0.0.0.0", tmp_path, None, None), "--admin-token: expected a file, as others reach --host 0.0.0.0"),
        (("127.0.0.1", None, token, None), "expected --admin with it"),
        (("127.0.0.1", tmp_path / "none", None, None), "--admin: expected a directory"),
        (("127.0.0.1", tmp_path, None, token), "--watch: expected a directory"),
        (("127.0.0.1", tmp_path, short, None), "at least 16 printable characters"),
    ):
        with pytest.raises(InputError, match=why):
            administered(*arguments)


def test_rows_are_refused_with_the_reason(loader: Loader, folder: Path) -> None:
    direct = http(loader, Admin(folder))

    def tensor(name: str, shape: list[int], data: list[Any], kind: str = "FP32") -> dict[str, Any]:
        return {"name": name, "shape": shape, "datatype": kind, "data": data}

    ids, values = tensor("ads.ids", [1], [3], "INT32"), tensor("ads.values", [1, 4], [1, 2, 3, 4])
    for inputs, why in (
        ([ids], "expected 'ads.ids' and 'ads.values', got 'ads.ids' alone"),
        ([ids, ids], "expected once, got it twice"),
        ([tensor("ads", [1], [3.0])], "expected tensors TABLE.ids and TABLE.values"),
        ([values, tensor("ads.ids", [1], [3.5], "INT32")], "expected 1 numbers, INT32"),
        ([values, tensor("ads.ids", [1], [3.0])], "expected whole numbers [rows], got float32"),
        ([ids, tensor("ads.values", [4], [1, 2, 3, 4])], "expected floating-point numbers [rows, dim]"),
        ([ids, tensor("ads.values", [2**30] * 8, [1])], "numbers, FP32, got [1]"),
        ([tensor("ads.ids", [1], ["x"], "BYTES")], "expected one of INT32, INT64, FP32"),
        ([], "expected TABLE.ids and TABLE.values, got none"),
    ):
        body = json.dumps({"inputs": inputs}).encode()
        status, doc, _ = direct.post("/v2/repository/models/flat/rows", body)
        assert (status, why in doc["error"]) == (400, True), doc
    body = json.dumps({"inputs": [ids, values]}).encode()
    assert direct.post("/v2/repository/models/flat/rows", body)[:2] == (200, {"rows": 1})
    assert "rows_written_total" in exposition(loader, direct.watch)[1].decode()
    assert direct.frontend.pool.taken == 0


def test_refusals_of_the_service_are_the_clients_to_repeat(loader: Loader, folder: Path) -> None:
    async def scenario() -> None:
        loader.error = NodeError("workers cannot start")
        with pytest.raises(RefusedError, match="workers cannot start"):
            await Repository(loader, Counters(), Admin(folder)).load("flat", {"version": "2"})
        with pytest.raises(RequestError):
            await Repository(loader, Counters(), Admin(folder)).load("flat", {"version": "3"})

    asyncio.run(scenario())


def test_the_command_says_what_is_wrong_with_a_servers_address(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
    for url, kind, why in (
        ("ftp://x", InputError, "--url: expected http://HOST:PORT, got ftp://x"),
        ("http://x:port", InputError, "--url: expected http://HOST:PORT"),
        (f"http://127.0.0.1:{port}", NodeError, "expected an answer of a server, got: Connection refused"),
    ):
        with pytest.raises(kind, match=why):
            load("wnd", url=url)
    with pytest.raises(InputError, match="expected a file with a token"):
        load("wnd", url="localhost:8000", token=tmp_path / "none")

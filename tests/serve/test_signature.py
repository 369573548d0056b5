"""A model with tensors of its own: what its file states is what clients read, send and get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("tritonclient.grpc", reason="the extra `serve` is not installed")
from tritonclient.utils import InferenceServerException

import deeprecsys as dr
from deeprecsys.core.profile import Point
from deeprecsys.core.target import Target
from deeprecsys.serve.load.offer import Requests, load
from deeprecsys.serve.protocol.describe import config_document
from deeprecsys.zoo.custom import own_model
from deeprecsys.zoo.schema import DenseInput, Feed, Per, Schema, Signature, SparseInput, Table, TensorSpec
from tests.custom.test_columns import export
from tests.custom.test_signature import PLAIN, STRANGE, features, file
from tests.serve.asgi import Direct
from tests.serve.bodies import Arrays, binary_body, json_body
from tests.serve.conftest import start
from tests.serve.stand_in import MAX_ITEMS, StandIn, expected_scores
from tests.serve.test_load import stream
from tests.serve.test_tritonclient import as_dict, over_grpc, over_http, tensors

IDS, PRICE, IMAGE, USER, OUT = STRANGE["ids"], "price in €", "scores", 'a "user"\n', STRANGE["out"]
STATED = Signature(
    (
        TensorSpec(IDS, "INT64", (), feeds=(Feed("ids"), Feed("ids/1"))),
        TensorSpec(PRICE, "FP32", (), feeds=(Feed("price"),)),
        TensorSpec(IMAGE, "FP32", (2, 3), feeds=(Feed("image"),)),
        TensorSpec(USER, "INT32", (2,), Per.QUERY, (Feed("user"),)),
    ),
    (TensorSpec(OUT, "FP32", ()),),
)
OWN = Schema(
    tables=(Table("ads", 1000, 4), Table("few", 50, 4)),
    inputs=(
        SparseInput("ids", "ads"),
        SparseInput("ids/1", "few"),
        DenseInput("price", 1),
        DenseInput("image", 6),
        SparseInput("user", "ads", 2, per=Per.QUERY),
    ),
    given=STATED,
)
NAME = "model von Müller: v2?#%"


def request(items: int, ids: str = "i8") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(items)
    return {
        IDS: rng.integers(0, 50, items).astype(ids),
        PRICE: rng.standard_normal(items).astype("f4"),
        IMAGE: rng.standard_normal((items, 2, 3)).astype("f4"),
        USER: rng.integers(0, 1000, (1, 2)).astype("i4"),
    }


def wanted(sent: Arrays) -> np.ndarray:
    fed = {f.input: sent[t.name].reshape(len(sent[t.name]), -1) for t in STATED.inputs for f in t.feeds}
    return expected_scores(OWN, fed, len(sent[IDS]))[:, 0]


@pytest.fixture
def http() -> Direct:
    return Direct(StandIn.of(own=OWN))


@pytest.mark.parametrize("form", ["flat", "nested", "binary", "columns"])
@pytest.mark.parametrize("ids", ["i4", "i8"])
@pytest.mark.parametrize("items", [1, 7])
def test_every_form_of_a_request_scores_alike(http: Direct, form: str, ids: str, items: int) -> None:
    sent = request(items, ids)
    want = wanted(sent)
    if form == "columns":  # as Triton configures such a file by itself
        sent |= {name: sent[name][:, None] for name in (IDS, PRICE)}
    if form in ("flat", "nested"):
        status, doc = http.infer("own", json_body(sent, nested=form == "nested"))
    else:
        head, raw = binary_body(sent)
        status, doc = http.infer("own", head + raw, head=len(head))
    assert status == 200, doc
    (output,) = doc["outputs"]
    assert (output["name"], output["shape"]) == (OUT, [items])
    np.testing.assert_allclose(output["data"], want, rtol=1e-5)


def test_tensors_without_a_width_may_be_stored_as_they_come() -> None:
    inputs = tuple(TensorSpec(name, "FP32", (), feeds=(Feed(name),)) for name in "xy")
    given = Signature(inputs, (TensorSpec("z", "FP32", ()),))
    http = Direct(StandIn.of(flat=Schema((), (DenseInput("x", 1), DenseInput("y", 1)), 1, given)))
    sent = {"x": np.arange(3, dtype="f4"), "y": np.ones(3, "f4")}
    head, raw = binary_body(sent)
    status, doc = http.infer("flat", head + raw, head=len(head))
    assert (status, doc["outputs"][0]["data"]) == (200, [2.0, 3.0, 4.0])
    sent["y"][1] = np.nan
    head, raw = binary_body(sent)
    said = http.infer("flat", head + raw, head=len(head))[1]["error"]
    assert said == "input 'y': expected finite numbers, got nan at [1]"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({IDS: np.zeros((2, 2), "i8")}, f"input {IDS!r}: expected shape [items], got [2, 2]"),
        ({IDS: np.zeros((1, 2), "i8")}, "expected shape [items], got [1, 2]"),
        ({IMAGE: np.zeros((2, 6), "f4")}, "input 'scores': expected shape [items, 2, 3], got [2, 6]"),
        ({USER: np.zeros(2, "i4")}, "expected shape [1, 2], got [2]"),
        ({"ids": np.zeros(2, "i8")}, "input 'ids': expected only serving_default_ids:0, price in €"),
        ({IDS: np.array([3, 2**40])}, f"input {IDS!r}: expected ids from"),
        ({IDS: np.array([3, 2**40])}, "got 1099511627776 at [1]"),
        ({PRICE: np.array([0, np.inf], "f4")}, f"input {PRICE!r}: expected finite numbers, got inf at [1]"),
        ({IMAGE: np.full((2, 2, 3), np.nan)}, f"{IMAGE!r}: expected finite numbers, got nan at [0, 0, 0]"),
    ],
)  # fmt: skip
def test_a_wrong_tensor_is_named_as_the_client_knows_it(http: Direct, change: Arrays, said: str) -> None:
    head, raw = binary_body(request(2) | change)
    status, doc = http.infer("own", head + raw, head=len(head))
    assert (status, said in doc["error"]) == (400, True), doc


def test_another_output_is_refused(http: Direct) -> None:
    status, doc = http.infer("own", json_body(request(2), outputs=[{"name": "scores"}]))
    assert (status, doc["error"]) == (400, f"output 'scores': expected one of {OUT!r}")


@pytest.mark.parametrize("kind", [over_http, over_grpc], ids=["http", "grpc"])
def test_unmodified_clients_read_and_send_what_the_file_states(kind: Any) -> None:
    running = start(StandIn.of(**{NAME: OWN}))
    try:
        client = kind.InferenceServerClient(running.http if kind is over_http else running.grpc)
        client.kind = kind
        assert client.is_model_ready(NAME)
        doc = as_dict(client, "get_model_metadata", NAME)
        stated = [(t["name"], t["datatype"], [int(n) for n in t["shape"]]) for t in doc["inputs"]]
        assert stated == [(IDS, "INT64", [-1]), (PRICE, "FP32", [-1]), (IMAGE, "FP32", [-1, 2, 3]),
                          (USER, "INT32", [1, 2])]  # fmt: skip
        assert [(t["name"], [int(n) for n in t["shape"]]) for t in doc["outputs"]] == [(OUT, [-1])]
        doc = as_dict(client, "get_model_config", NAME)
        doc = doc.get("config", doc)
        assert doc.get("max_batch_size", 0) == 0
        assert [[int(n) for n in t["dims"]] for t in doc["input"]] == [[-1], [-1], [-1, 2, 3], [1, 2]]
        sent = request(5)
        for binary in (True, False):
            output = kind.InferRequestedOutput(OUT)
            result = client.infer(NAME, tensors(kind, sent, binary), outputs=[output])
            np.testing.assert_allclose(result.as_numpy(OUT), wanted(sent), rtol=1e-5)
        client.close()
        if kind is over_http:
            log = load(f"http://{running.http}", NAME, OWN, stream(20), Target(latency_s=1.0), seed=1)
            assert log.extra["answers"] == {"200": 20}
            seat = running.backend.seats[-1].inputs
            np.testing.assert_array_equal(seat["ids"], seat["ids/1"])
            assert seat["ids"].max() < 50 <= seat["user"].max()
    finally:
        running.end()


MATRIX = Schema(
    tables=(Table("few", 50, 4), Table("ads", 1000, 4)),
    inputs=(
        SparseInput("wide", "few"),
        SparseInput("deep", "ads"),
        SparseInput("seen", "ads", 2),
        DenseInput("x", 5, ids=((0, 50),)),
    ),
    given=Signature(
        (
            TensorSpec(
                "x",
                "FP32",
                (5,),
                feeds=(Feed("wide", (0,)), Feed("deep", (0,)), Feed("seen", (4, 2)), Feed("x")),
            ),
        ),
        (TensorSpec("y", "FP32", (1,)),),
    ),
)


def matrix(items: int, kind: str = "f4") -> np.ndarray:
    found = np.random.default_rng(items).standard_normal((items, 5)).astype("f4")
    found[:, [0, 2, 4]] = np.arange(3 * items).reshape(items, 3)
    return found.astype(kind)


@pytest.mark.parametrize("form", ["json", "f4", "f8"])
def test_columns_of_a_tensor_fill_the_inputs_that_they_feed(form: str) -> None:
    http, x = Direct(StandIn.of(m=MATRIX)), matrix(6, "f8" if form == "f8" else "f4")
    fed = {"wide": x[:, :1], "deep": x[:, :1], "seen": x[:, [4, 2]], "x": x}
    if form == "json":
        status, doc = http.infer("m", json_body({"x": x}))
    else:
        head, raw = binary_body({"x": x})
        status, doc = http.infer("m", head + raw, head=len(head))
    assert status == 200, doc
    np.testing.assert_allclose(doc["outputs"][0]["data"], expected_scores(MATRIX, fed, 6)[:, 0], rtol=1e-5)


@pytest.mark.parametrize(("value", "said"), [(3.5, "3.5"), (2.0**40, "1099511627776.0"), (np.nan, "nan")])
def test_a_column_of_ids_takes_whole_numbers(value: float, said: str) -> None:
    x = matrix(3)
    x[1, 2] = value
    head, raw = binary_body({"x": x})
    status, doc = Direct(StandIn.of(m=MATRIX)).infer("m", head + raw, head=len(head))
    assert status == 400
    assert doc["error"].startswith("input 'x': expected whole numbers, ids from ")
    assert doc["error"].endswith(f", got {said} at [1, 2]")


def test_generated_columns_of_ids_are_within_every_table_that_they_index() -> None:
    requests = Requests(MATRIX, 100, seed=1)
    body, head = requests.body(100, 0)
    x = np.frombuffer(body[head:], "<f4").reshape(100, 5)
    ids = x[:, [0, 2, 4]]
    assert (ids == np.trunc(ids)).all()
    assert (ids.min(), ids[:, 0].max() < 50 < ids[:, 1:].max() < 1000) == (0, True)
    assert np.std(x[:, [1, 3]]) == pytest.approx(1, abs=0.2)
    for feed in MATRIX.signature.inputs[0].feeds:
        np.testing.assert_array_equal(requests.arrays[feed.input][:100], x[:, feed.columns or slice(None)])


def test_items_are_no_batch_dimension_where_a_tensor_has_no_other() -> None:
    flat = Signature((TensorSpec("x", "FP32", (2,), feeds=(Feed("x"),)),), (TensorSpec("y", "FP32", ()),))
    for given, largest, dims in ((None, MAX_ITEMS, [1]), (flat, 0, [-1])):
        model = StandIn.of(m=Schema((), (DenseInput("x", 2),), 1, given)).models["m"]
        doc = config_document(model)
        assert (doc["max_batch_size"], doc["output"][0]["dims"]) == (largest, dims)


@pytest.mark.live
@pytest.mark.filterwarnings("ignore")  # torch.export's own
@pytest.mark.parametrize("form", ["plain", "strange", "pt2"])
def test_a_file_is_served_as_onnx_runtime_runs_it(form: str, tmp_path: Path) -> None:
    bad = "item 3, look-up 0: expected an id in 0 … 29"  # of the second table's 30 rows
    if form == "pt2":
        export("mixed", tmp_path)
        path, same = str(tmp_path / "m.pt2"), str(tmp_path / "m.onnx")
        bad = "item 3, column 0: expected an id in 0 … 19, got 30"
    else:
        path = same = file(tmp_path / "m.onnx", {"plain": PLAIN, "strange": STRANGE}[form])
    own, session = own_model(path), onnxruntime.InferenceSession(same)
    first, out = own.schema.signature.inputs[0].name, own.schema.signature.outputs[0].name
    load = {"sizes": "fixed:20", "sla_ms": 500.0}
    points = Point(1, 1, (1e-4,)), Point(1, 20, (1e-3,))
    profile = dr.LatencyProfile(path, points, engine="compiled")
    with dr.ServerProcess(path, name=NAME, profile=profile, workers=1, spares=0, **load) as server:
        for kind, url in ((over_http, server.url.removeprefix("http://")), (over_grpc, server.grpc)):
            client = kind.InferenceServerClient(url)
            for items in (1, 20):
                sent = features(own, items)
                if form == "pt2":
                    sent = {name: np.abs(np.trunc(x)) for name, x in sent.items()}
                result = client.infer(NAME, tensors(kind, sent))
                (wanted,) = session.run(None, sent)
                np.testing.assert_allclose(result.as_numpy(out), wanted, atol=1e-5)
            sent[first][3] = 30
            with pytest.raises(InferenceServerException, match=bad):
                client.infer(NAME, tensors(kind, sent))
            client.close()
        more = {"url": server.url, "rate": 100, "queries": 30, "progress": None, **load}
        assert dr.bench(path, name=NAME, **more).completed == 30
        with pytest.raises(dr.InputError, match="does not have the model 'm'"):
            dr.bench(path, **more)

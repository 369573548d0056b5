"""Unmodified `tritonclient`, over HTTP and over gRPC."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as over_grpc

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its dependencies, as they are imported
    import tritonclient.http as over_http
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from deeprecsys.node.service.backend import Reason
from tests.serve.bodies import TYPES, arrays
from tests.serve.conftest import Running, start
from tests.serve.fuzz import DirectRpc
from tests.serve.stand_in import FLAT, MAX_ITEMS, MIXED, StandIn, expected_scores
from tests.serve.test_http import load_report, wait_for


@pytest.fixture(params=["http", "grpc"])
def client(request: pytest.FixtureRequest, running: Running) -> Iterator[Any]:
    """A client, with the module that its types come from as `kind`."""
    kind = over_http if request.param == "http" else over_grpc
    made = kind.InferenceServerClient(running.http if kind is over_http else running.grpc)
    made.kind = kind
    yield made
    made.close()


def tensors(kind: Any, inputs: Any, binary: bool = True) -> list[Any]:
    found = []
    for name, a in inputs.items():
        tensor = kind.InferInput(name, list(a.shape), TYPES[a.dtype.str[1:]])
        tensor.set_data_from_numpy(a, **({"binary_data": binary} if kind is over_http else {}))
        found.append(tensor)
    return found


def as_dict(client: Any, call: str, *args: str) -> dict[str, Any]:
    more = {"as_json": True} if client.kind is over_grpc else {}
    found: dict[str, Any] = getattr(client, call)(*args, **more)
    return found


def test_health_and_metadata(client: Any, running: Running) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mixed")
    assert as_dict(client, "get_server_metadata")["name"] == "deeprecsys"
    doc = as_dict(client, "get_model_metadata", "mixed")
    shapes = {i["name"]: [int(n) for n in i["shape"]] for i in doc["inputs"]}
    assert shapes == {"dense": [-1, 3], "user": [1, 2], "ad": [-1, 4]}
    assert [o["name"] for o in doc["outputs"]] == ["scores"]
    running.backend.ready = False
    assert not client.is_server_ready()


def test_config(client: Any) -> None:
    for model, largest, dims in (("mixed", 0, [-1, 4]), ("flat", MAX_ITEMS, [1])):
        doc = as_dict(client, "get_model_config", model)
        doc = doc.get("config", doc)
        assert doc.get("max_batch_size", 0) == largest
        assert [int(n) for n in doc["input"][-1]["dims"]] == dims


def test_index(client: Any) -> None:
    doc: Any = as_dict(client, "get_model_repository_index")
    models = doc["models"] if client.kind is over_grpc else doc
    ready = [(name, "READY") for name in ("mixed", "flat", "jagged")]
    assert [(m["name"], m["state"]) for m in models] == ready


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("items", [1, 7, MAX_ITEMS])
def test_infer(client: Any, binary: bool, items: int) -> None:
    inputs = arrays(MIXED, items)
    output = (
        client.kind.InferRequestedOutput("scores", binary_data=binary)
        if client.kind is over_http
        else client.kind.InferRequestedOutput("scores")
    )
    result = client.infer(
        "mixed", tensors(client.kind, inputs, binary), outputs=[output], request_id="r1", model_version="1"
    )
    np.testing.assert_allclose(result.as_numpy("scores"), expected_scores(MIXED, inputs, items), rtol=1e-6)
    response = result.get_response()
    assert (response["id"] if client.kind is over_http else response.id) == "r1"


def test_infer_asking_for_no_output_gives_the_scores(client: Any) -> None:
    result = client.infer("flat", tensors(client.kind, arrays(FLAT, 2)))
    assert result.as_numpy("scores").shape == (2, 1)


def test_errors_name_the_field(client: Any) -> None:
    inputs = arrays(FLAT, 2) | {"ad": np.zeros((3, 1), "i4")}
    with pytest.raises(InferenceServerException, match="input 'ad': expected 2 items") as e:
        client.infer("flat", tensors(client.kind, inputs))
    assert e.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")
    with pytest.raises(InferenceServerException, match="model 'none': expected one of mixed, flat") as e:
        client.get_model_metadata("none")
    assert e.value.status() in ("404", "StatusCode.NOT_FOUND")


def test_refusal(client: Any, running: Running) -> None:
    running.backend.refuse = Reason.OVERLOAD
    with pytest.raises(InferenceServerException, match="refused: overload") as e:
        client.infer("flat", tensors(client.kind, arrays(FLAT, 2)))
    assert e.value.status() in ("503", "StatusCode.UNAVAILABLE")


def test_statistics_move(client: Any) -> None:
    def count() -> tuple[int, int]:
        stats = as_dict(client, "get_inference_statistics", "flat")["model_stats"][0]
        success = stats["inference_stats"]["success"]
        return int(stats.get("inference_count", 0)), int(success.get("count", 0))

    before = count()
    client.infer("flat", tensors(client.kind, arrays(FLAT, 5)))
    assert count() == (before[0] + 5, before[1] + 1)


def test_timeout_and_priority_reach_the_backend(client: Any, running: Running) -> None:
    client.infer("flat", tensors(client.kind, arrays(FLAT, 1)), timeout=3_000_000, priority=1)
    seat = running.backend.seats[-1]
    assert seat.deadline_s is not None
    assert seat.deadline_s - seat.arrival_s == pytest.approx(3.0)
    assert seat.priority == -4


@pytest.fixture
def infer(running: Running) -> Iterator[Any]:
    """The bare call of `ModelInfer`: bytes in, bytes out."""
    with grpc.insecure_channel(running.grpc) as channel:
        yield channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")


def typed_request(**contents: Any) -> pb.ModelInferRequest:
    dense = pb.ModelInferRequest.InferInputTensor(name="dense", datatype="FP32", shape=[1, 3])
    dense.contents.fp32_contents.extend([1, 2, 3])
    ad = pb.ModelInferRequest.InferInputTensor(name="ad", datatype="INT64", shape=[1, 1])
    ad.contents.int64_contents.extend([5])
    return pb.ModelInferRequest(model_name="flat", inputs=[dense, ad], **contents)


def test_typed_contents(infer: Any) -> None:
    response = pb.ModelInferResponse.FromString(infer(typed_request().SerializeToString()))
    assert np.frombuffer(response.raw_output_contents[0], "<f4").tolist() == [24.0]


def code_of(call: Any, *args: Any, **kwargs: Any) -> tuple[grpc.StatusCode, str, dict[str, Any]]:
    with pytest.raises(grpc.RpcError) as e:
        call(*args, **kwargs)
    trailing = dict(e.value.trailing_metadata() or ())
    return e.value.code(), e.value.details(), trailing


def test_bytes_that_are_no_message_are_the_clients_fault(infer: Any) -> None:
    code, details, _ = code_of(infer, b"\xff\xff\xff")
    assert (code, "expected a ModelInferRequest" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)


def test_contents_of_both_kinds_are_refused(infer: Any) -> None:
    message = typed_request(raw_input_contents=[b"\0" * 12, b"\0" * 8])
    code, details, _ = code_of(infer, message.SerializeToString())
    assert (code, "got both" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    message = typed_request(raw_input_contents=[b"\0" * 12])
    code, details, _ = code_of(infer, message.SerializeToString())
    assert (code, "of the 2 inputs, got 1" in details) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        True,
    )


def test_a_refusal_says_when_to_come_again(infer: Any, running: Running) -> None:
    running.backend.refuse = Reason.DRAINING
    code, _, trailing = code_of(infer, typed_request().SerializeToString())
    assert code is grpc.StatusCode.UNAVAILABLE
    assert (trailing["grpc-retry-pushback-ms"], trailing["retry-after"]) == ("250", "1")


@pytest.mark.parametrize("refuse", [None, Reason.LATE])
def test_the_load_comes_with_every_answer(infer: Any, running: Running, refuse: Reason | None) -> None:
    """gRPC's own client keeps the binary report for its balancer."""
    running.backend.refuse = refuse
    asked, request = (("endpoint-load-metrics-format", "text"),), typed_request().SerializeToString()
    if refuse:
        trailing = code_of(infer, request, metadata=asked)[2]
    else:
        _, call = infer.with_call(request, metadata=asked)
        trailing = dict(call.trailing_metadata())
    assert trailing["endpoint-load-metrics"] == "TEXT application_utilization=0.75, rps_fractional=120"
    direct = DirectRpc(StandIn.of())
    direct.backend.refuse = refuse
    direct.check(request)
    assert load_report(dict(direct.context.trailing)["endpoint-load-metrics-bin"]) == {9: 0.75, 6: 120.0}


def test_a_query_that_waited_too_long_exceeded_its_deadline(infer: Any, running: Running) -> None:
    running.backend.late_after_wait = True
    assert code_of(infer, typed_request().SerializeToString())[0] is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_calls_deadline_is_the_querys(infer: Any, running: Running) -> None:
    infer(typed_request().SerializeToString(), timeout=5.0)
    seat = running.backend.seats[-1]
    assert seat.deadline_s is not None
    assert 3.0 < seat.deadline_s - seat.arrival_s <= 5.1  # gRPC sends it rounded up


def test_cancelling_a_call_cancels_its_query(infer: Any, running: Running) -> None:
    running.backend.delay_s = 60
    before = running.backend.cancelled
    call = infer.future(typed_request().SerializeToString())
    wait_for(lambda: running.backend.open == 1)
    call.cancel()
    wait_for(lambda: running.backend.cancelled == before + 1)
    wait_for(lambda: running.backend.open == 0)


def test_stopping_lets_open_requests_end_and_takes_no_more() -> None:
    running = start(StandIn.of())
    running.backend.delay_s = 0.5
    http = over_http.InferenceServerClient(running.http, network_timeout=20)
    rpc = over_grpc.InferenceServerClient(running.grpc)
    results: list[Any] = []
    open_http = http.async_infer("flat", tensors(over_http, arrays(FLAT, 2)))
    rpc.async_infer("flat", tensors(over_grpc, arrays(FLAT, 2)), lambda result, error: results.append(error))
    import gevent

    while running.backend.open < 2:
        gevent.sleep(0.01)
    running.loop.call_soon_threadsafe(running.stop.set)
    assert open_http.get_result().as_numpy("scores").shape == (2, 1)
    wait_for(lambda: bool(results))
    assert results == [None]
    http.close()
    rpc.close()
    running.end()
    assert not running.thread.is_alive()
    assert running.backend.listeners == []

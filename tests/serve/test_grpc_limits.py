"""What gRPC clients may claim, pings, and the health service."""

from __future__ import annotations

import queue
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import grpc
import pytest
import tritonclient.grpc as over_grpc
from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from tritonclient.grpc import service_pb2 as pb

from deeprecsys.serve import grpc as rpc
from deeprecsys.serve.frontend import Frontend
from deeprecsys.serve.memory import BufferPool, FullError
from tests.serve.bodies import arrays
from tests.serve.conftest import Running, start
from tests.serve.stand_in import FLAT, StandIn
from tests.serve.test_tritonclient import code_of, tensors, typed_request

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A server that receives one message at a time, and takes two streams."""
    monkeypatch.setattr(rpc, "RECEIVING_BYTES", 1)
    monkeypatch.setattr(rpc, "LEAST_CALLS", 2)
    monkeypatch.setattr(rpc, "RECEIVE_S", 1.0)
    running = start(StandIn.of())
    yield running
    running.end()


class Stream:
    """An open stream of requests."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._sent: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._call = channel.stream_stream(STREAM)(iter(self._sent.get, None))

    def infer(self) -> pb.ModelStreamInferResponse:
        self._sent.put(typed_request().SerializeToString())
        return pb.ModelStreamInferResponse.FromString(next(self._call))

    def close(self) -> None:
        self._sent.put(None)
        list(self._call)


def test_open_streams_are_limited(narrow: Running) -> None:
    with grpc.insecure_channel(narrow.grpc) as channel:
        streams = [Stream(channel) for _ in range(2)]
        for s in streams:
            assert not s.infer().error_message
        code, details, trailing = code_of(Stream(channel).infer)
        assert (code, trailing["retry-after"]) == (grpc.StatusCode.UNAVAILABLE, "1")
        assert "streams" in details
        channel.unary_unary(INFER)(typed_request().SerializeToString())  # other calls are served
        streams.pop().close()
        last = Stream(channel)
        assert not last.infer().error_message
        for s in (*streams, last):
            s.close()


def test_connections_leave_descriptors_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle connections took all that the process may have, and HTTP's were reset."""
    monkeypatch.setattr(rpc, "most_connections", lambda: 3)
    running = start(StandIn.of())
    host, port = running.grpc.split(":")
    idle = [socket.create_connection((host, int(port)), timeout=5) for _ in range(6)]
    try:
        closed = []
        for one in idle:
            one.settimeout(2)
            with suppress(ConnectionResetError, TimeoutError):
                while (data := one.recv(1 << 12)) or closed.append(one):  # type: ignore[func-returns-value]
                    assert data
        assert len(closed) >= 3
    finally:
        for one in idle:
            one.close()
        running.end()


@pytest.mark.parametrize(("descriptors", "most"), [(256, 32), (1024, 128), (1 << 20, 2048), (4, 1)])
def test_connections_are_a_share_of_the_descriptors(
    descriptors: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc.resource, "getrlimit", lambda _: (descriptors, descriptors))
    assert rpc.most_connections() == most


def test_messages_are_charged_to_the_memory_of_all_requests(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    charged = []
    with monkeypatch.context() as m, grpc.insecure_channel(running.grpc) as channel:
        m.setattr(BufferPool, "charge", lambda self, count: charged.append(count))
        m.setattr(BufferPool, "give", lambda self, count: charged.append(-count))
        raw = typed_request().SerializeToString()
        channel.unary_unary(INFER)(raw)
        stream = Stream(channel)
        for _ in range(3):
            stream.infer()
        stream.close()
        assert charged.count(2 * len(raw)) == 4
        while sum(charged):
            time.sleep(0.01)

        def full(self: BufferPool, count: int) -> None:
            raise FullError(self.most)

        m.setattr(BufferPool, "charge", full)
        code, details, _ = code_of(channel.unary_unary(INFER), raw)
        assert (code, "already take" in details) == (grpc.StatusCode.UNAVAILABLE, True)
    with grpc.insecure_channel(running.grpc) as channel:
        channel.unary_unary(INFER)(raw)


def test_the_largest_message_is_smaller_than_a_body_of_text() -> None:
    frontend = Frontend(StandIn.of(), Any)
    for model in frontend.backend.models.values():
        inputs = frontend.inputs(model)
        assert inputs.message_limit < inputs.body_limit
        worst = pb.ModelInferRequest(model_name=model.name)
        for i in model.schema.inputs:
            tensor = worst.inputs.add(name=i.name, datatype="INT64", shape=[model.max_items, i.width])
            tensor.contents.int64_contents.extend([-1] * model.max_items * i.width)
        assert worst.ByteSize() < inputs.message_limit


def half_a_message(address: str) -> socket.socket:
    """A connection with a call whose message does not come to its end, in frames of HTTP/2."""
    host, port = address.split(":")
    s = socket.create_connection((host, int(port)), timeout=30)

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload

    headers = {
        ":method": "POST", ":scheme": "http", ":path": INFER, ":authority": address, "te": "trailers",
        "content-type": "application/grpc",
    }  # fmt: skip
    block = b"".join(b"\0%c%s%c%s" % (len(k), k.encode(), len(v), v.encode()) for k, v in headers.items())
    s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 4, 1, block))
    s.sendall(frame(0, 0, 1, struct.pack(">BI", 0, 1000) + b"x" * 10))
    return s


def test_messages_that_do_not_come_hold_up_nobody_for_long(narrow: Running) -> None:
    stuck = [half_a_message(narrow.grpc) for _ in range(2)]
    time.sleep(0.2)
    with grpc.insecure_channel(narrow.grpc) as channel:
        begin = time.monotonic()
        for _ in range(3):
            channel.unary_unary(INFER)(typed_request().SerializeToString(), timeout=20)
        assert 0.3 < time.monotonic() - begin < 10
    for s in stuck:
        s.close()


def test_an_idle_stream_is_ended(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "IDLE_S", 0.3)
    with grpc.insecure_channel(running.grpc) as channel:
        stream = Stream(channel)
        stream.infer()
        time.sleep(0.6)
        assert code_of(stream.infer)[0] is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_stream_survives_its_clients_pings(running: Running) -> None:
    often = over_grpc.KeepAliveOptions(
        keepalive_time_ms=1000, keepalive_permit_without_calls=True, http2_max_pings_without_data=0
    )
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with closing(over_grpc.InferenceServerClient(running.grpc, keepalive_options=often)) as client:
        client.start_stream(lambda result, error: answers.put(error))
        for pause_s in (0, 6):
            time.sleep(pause_s)
            client.async_stream_infer("flat", tensors(over_grpc, arrays(FLAT, 2)))
            assert answers.get(timeout=10) is None
        client.stop_stream()


@pytest.fixture
def check(running: Running) -> Iterator[Callable[[str], Any]]:
    with grpc.insecure_channel(running.grpc) as channel:
        call = channel.unary_unary(
            f"/{rpc.HEALTH}/Check",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=Int32Value.FromString,
        )
        yield lambda service: call(StringValue(value=service))


def test_health_of_server_and_models(check: Callable[[str], Any], running: Running) -> None:
    for service in ("", rpc.SERVICE, "flat", "mixed"):
        assert check(service).value == 1
    code, details, _ = code_of(check, "none")
    assert (code, "'none'" in details) == (grpc.StatusCode.NOT_FOUND, True)
    running.backend.ready = False
    assert check("").value == 2


def test_health_is_watched(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "WATCH_S", 0.05)
    with grpc.insecure_channel(running.grpc) as channel:
        call = channel.unary_stream(
            f"/{rpc.HEALTH}/Watch",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=Int32Value.FromString,
        )
        seen, unknown = call(StringValue()), call(StringValue(value="none"))
        assert (next(seen).value, next(unknown).value) == (1, 3)
        running.backend.ready = False
        assert next(seen).value == 2
        seen.cancel()
        unknown.cancel()

"""Bodies that clients should not send, and what must hold of every answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from deeprecsys.serve.frontend import Frontend
from deeprecsys.serve.grpc import GrpcService
from deeprecsys.serve.metrics.counters import Counters
from tests.serve.asgi import Direct
from tests.serve.bodies import TYPES, arrays, binary_body, json_body
from tests.serve.stand_in import JAGGED, MAX_ITEMS, SCHEMAS, StandIn

ALLOWED = {200, 400, 404, 405, 409, 413, 415, 503}
STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
OVERFLOW = "scores: expected finite numbers"
"""Of the error that is due to finite inputs whose scores are infinite."""
HANG_S = 20.0

NAMES = ["dense", "user", "ad", "ad.values", "ad.lengths", "user.values", "x", ""]
NAMES += ["tags", "tags.values", "tags.lengths", "tags.weights", "history", "history.lengths"]
DATATYPES = ["FP32", "FP64", "FP16", "INT32", "INT64", "BYTES", "BOOL", "fp32", ""]
numbers = st.one_of(
    st.integers(-3, 1100), st.integers(), st.floats(), st.sampled_from([2**31, 2**63, 1e300, -1, 0.5])
)
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=8))
values = st.recursive(
    scalars,
    lambda v: st.one_of(st.lists(v, max_size=5), st.dictionaries(st.text(max_size=8), v, max_size=4)),
    max_leaves=12,
)
shapes = st.lists(st.sampled_from([0, 1, 2, 3, 4, MAX_ITEMS, MAX_ITEMS + 1, 2**31 - 1, 2**40]), max_size=4)
parameters = st.dictionaries(
    st.sampled_from(
        ["timeout", "priority", "sequence_id", "binary_data_output", "binary_data_size", "binary_data",
         "shared_memory_region", "classification", "headers"]
    ),
    scalars, max_size=3,
)  # fmt: skip
tensors = st.fixed_dictionaries(
    {"name": st.sampled_from(NAMES)},
    optional={
        "datatype": st.sampled_from(DATATYPES),
        "shape": st.one_of(shapes, values),
        "data": st.one_of(st.lists(numbers, max_size=12), st.lists(st.lists(numbers, max_size=4)), values),
        "parameters": parameters,
    },
)
documents = st.fixed_dictionaries(
    {},
    optional={
        "id": scalars,
        "inputs": st.one_of(st.lists(tensors, max_size=5), values),
        "outputs": st.lists(st.fixed_dictionaries({}, optional={"name": scalars, "parameters": parameters})),
        "parameters": parameters,
    },
)


@st.composite
def spoilt(draw: st.DrawFn) -> tuple[str, bytes, dict[str, str]]:
    """A good request of a model, with one or two things changed: model, body, headers."""
    model = draw(st.sampled_from(sorted(SCHEMAS)))
    inputs = arrays(SCHEMAS[model], draw(st.integers(1, 4)), ids=draw(st.sampled_from(["i4", "i8"])))
    if draw(st.booleans()):
        head, raw = binary_body(inputs)
    else:
        head, raw = json_body(inputs), b""
    doc = json.loads(head)
    for _ in range(draw(st.integers(0, 2))):
        tensor = draw(st.sampled_from(doc["inputs"])) if doc["inputs"] else doc
        key = draw(st.sampled_from(["name", "datatype", "shape", "data", "parameters"]))
        change = {
            "name": st.sampled_from(NAMES), "datatype": st.sampled_from(DATATYPES), "shape": shapes,
            "data": st.one_of(st.lists(numbers, max_size=12), values), "parameters": parameters,
        }  # fmt: skip
        tensor[key] = draw(change[key])
    if draw(st.booleans()) and doc["inputs"]:
        draw(st.sampled_from([doc["inputs"].pop, lambda: doc["inputs"].append(doc["inputs"][0])]))()
    head = json.dumps(doc).encode()
    length = draw(st.sampled_from([len(head)] * 6 + [0, len(head) - 1, len(head) + 1, 10**9]))
    body = bytearray(head + raw)
    for _ in range(draw(st.integers(0, 2))):
        body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.sampled_from([len(body)] * 3 + [len(body) // 2, len(body) - 1]))
    headers = {"inference-header-content-length": str(length)} if raw or draw(st.booleans()) else {}
    return model, bytes(body[:cut]), headers


any_json = documents.map(lambda d: ("mixed", json.dumps(d).encode(), {}))
any_bytes = st.binary(max_size=300).map(lambda b: ("flat", b, {}))
headed = st.tuples(
    st.just("mixed"),
    st.binary(max_size=60),
    st.text("0123456789-x", max_size=4).map(lambda n: {"inference-header-content-length": n}),
)
http_requests = st.one_of(spoilt(), spoilt(), any_json, any_json, any_bytes, headed)


JaggedFault = tuple[dict[str, Any], str]
"""Tensors of a request, one of which is wrong, and the name that the answer must have."""


@st.composite
def jagged_faults(draw: st.DrawFn) -> JaggedFault:
    """A request whose lengths, values or weights do not fit each other, or the model."""
    items = draw(st.integers(1, 6))
    good = arrays(JAGGED, items, draw(st.integers(0, 999)), draw(st.sampled_from(["i4", "i8"])))
    if draw(st.integers(0, 3)) == 0:
        return draw(padded_faults(good, items))
    name, most = draw(st.sampled_from([("tags", 6), ("history", 5)]))
    values, lengths = good[f"{name}.values"], good[f"{name}.lengths"].astype("i8")
    at = draw(st.integers(0, len(lengths) - 1))
    kind = draw(
        st.sampled_from(["sum", "negative", "beyond", "huge", "values", "offsets", "missing", "type"])
    )
    field = f"{name}.lengths"
    if kind == "sum":
        lengths[at] = draw(st.sampled_from([n for n in range(most + 1) if n != lengths[at]]))
    elif kind in ("negative", "beyond", "huge"):
        bad = {"negative": st.integers(-(2**63), -1), "beyond": st.integers(most + 1, 2**31),
               "huge": st.sampled_from([2**63 - 1, 2**62, 2**32, 2**32 + 1])}  # fmt: skip
        lengths[at] = draw(bad[kind])
    elif kind == "values":
        extra = draw(st.integers(1, 40))
        good[f"{name}.values"] = np.append(values, np.full(extra, 3, values.dtype))
        if name == "tags":
            good["tags.weights"] = np.ones(len(values) + extra, "f4")
        field = name  # of too many values the values are named, else the lengths
    elif kind == "offsets":
        lengths = np.concatenate(([0], np.cumsum(lengths)))[draw(st.integers(0, 1)) :]
        good[f"{name}.values"] = np.append(values, np.full(7, 1, values.dtype)) if not values.size else values
        if name == "tags":
            good["tags.weights"] = np.ones(len(good["tags.values"]), "f4")
        field = name if len(lengths) == good[f"{name}.lengths"].shape[0] else ""
        if lengths.sum() == len(good[f"{name}.values"]) and lengths.max() <= most and field:
            lengths[at] += 1
    elif kind == "type":
        field = draw(st.sampled_from([f"{name}.lengths", f"{name}.values"]))
        good[field] = good[field].astype("f4")
        return good, field
    elif kind == "missing":
        field = f"{name}.{draw(st.sampled_from(['lengths', 'values']))}"
        del good[field]
        return good, field
    good[f"{name}.lengths"] = lengths
    return good, field


@st.composite
def padded_faults(draw: st.DrawFn, good: dict[str, Any], items: int) -> JaggedFault:
    """A padded input that is too wide, of one dimension, or whose weights do not fit it."""
    for part in ("values", "lengths", "weights"):
        del good[f"tags.{part}"]
    kind = draw(st.sampled_from(["wide", "flat", "range", "weights", "infinite"]))
    shape = {"wide": (items, draw(st.integers(7, 40))), "flat": (items,)}.get(kind, (items, 3))
    good["tags"] = np.full(shape, 2**40 if kind == "range" else 1, "i8")
    if kind in ("weights", "infinite"):
        weights = np.ones((items, 4 if kind == "weights" else 3), "f8")
        weights[0, 0] = 1e300 if kind == "infinite" else 1.0  # infinite as float32
        good["tags.weights"] = weights
        return good, "tags.weights"
    return good, "tags"


def check_jagged(http: Direct, rpc: DirectRpc, fault: JaggedFault, form: str) -> str:
    """Send a faulty request; raises AssertionError unless the answer names field, expected and got."""
    tensors, field = fault
    if form == "grpc":
        message = pb.ModelInferRequest(model_name="jagged")
        for name, a in tensors.items():
            message.inputs.add(name=name, datatype=TYPES[a.dtype.str[1:]], shape=a.shape)
            message.raw_input_contents.append(a.tobytes())
        status, said = rpc.answer(message.SerializeToString())
    else:
        head, raw = binary_body(tensors) if form == "binary" else (json_body(tensors), b"")
        call = http.call("POST", "/v2/models/jagged/infer", [head + raw],
                         {"inference-header-content-length": str(len(head))} if raw else {})  # fmt: skip
        code, _, answer = asyncio.run(asyncio.wait_for(call, HANG_S))
        status, said = str(code), answer.decode()
    assert status in ("400", "INVALID_ARGUMENT"), (status, said)
    assert field in said, (field, said)
    assert "expected" in said, said
    assert "got" in said, said
    assert http.backend.open == rpc.backend.open == 0
    return status


ROW_NAMES = ["ads.ids", "ads.values", "users.ids", "users.values", "ads", "none.ids", ".ids", "ids"]


@st.composite
def row_requests(draw: st.DrawFn) -> tuple[str, bytes, dict[str, str]]:
    """New rows of a table, with one or two things changed: verb's path, body, headers."""
    rows = draw(st.integers(0, 5))
    ids = np.array(draw(st.lists(st.integers(-1, 1001), min_size=rows, max_size=rows)), "i8")
    width = draw(st.sampled_from([4, 4, 4, 3]))
    new = np.array(draw(st.lists(st.floats(width=32), min_size=rows * width, max_size=rows * width)), "f4")
    if draw(st.booleans()):
        ids, new = ids % 1000, np.nan_to_num(new, posinf=1.0, neginf=1.0)
    given = {
        "ads.ids": ids.astype(draw(st.sampled_from(["i4", "i8"]))),
        "ads.values": new.reshape(rows, width),
    }
    head, raw = binary_body(given) if draw(st.booleans()) else (json_body(given), b"")
    doc = json.loads(head.replace(b"NaN", b"1").replace(b"-Infinity", b"1").replace(b"Infinity", b"1e999"))
    for _ in range(draw(st.integers(0, 2))):
        tensor = draw(st.sampled_from(doc["inputs"]))
        key = draw(st.sampled_from(["name", "datatype", "shape", "data", "parameters"]))
        change = {
            "name": st.sampled_from(ROW_NAMES), "datatype": st.sampled_from(DATATYPES), "shape": shapes,
            "data": st.one_of(st.lists(numbers, max_size=12), values), "parameters": parameters,
        }  # fmt: skip
        tensor[key] = draw(change[key])
    if draw(st.integers(0, 9)) == 0:
        doc = draw(st.one_of(documents, st.fixed_dictionaries({"parameters": verb_values})))
    head = json.dumps(doc).encode()
    body = bytearray(head + raw)
    for _ in range(draw(st.integers(0, 2))):
        body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
    length = draw(st.sampled_from([len(head)] * 6 + [0, len(head) - 1, 10**9]))
    headers = {"inference-header-content-length": str(length)} if raw or draw(st.booleans()) else {}
    return "repository/models/flat/rows", bytes(body), headers


verb_values = st.dictionaries(
    st.sampled_from(["version", "weights", "keep", "keep_tables", "config", "file", "file:1/x", "x"]),
    st.one_of(
        scalars, st.sampled_from(["2", "../x", "/etc/passwd", "flat/2/weights.safetensors", "[" * 99, "{}"])
    ),
    max_size=3,
)
verb_requests = st.tuples(
    st.sampled_from(["load", "load", "unload"]).map(lambda verb: f"repository/models/flat/{verb}"),
    st.one_of(
        st.fixed_dictionaries({"parameters": verb_values}).map(lambda d: json.dumps(d).encode()),
        st.binary(max_size=60),
    ),
    st.just({}),
)
admin_requests = st.one_of(row_requests(), row_requests(), row_requests(), verb_requests)


def check_http(http: Direct, request: tuple[str, bytes, dict[str, str]], pieces: int) -> int:
    """Send one, to a model or a path; its status. AssertionError: the answer is not one that may be given."""
    model, body, headers = request
    path = model if "/" in model else f"models/{model}/infer"
    step = max(1, -(-len(body) // pieces))
    chunks = [body[i : i + step] for i in range(0, len(body), step)]
    call = http.call("POST", f"/v2/{path}", chunks, headers)
    status, back, answer = asyncio.run(asyncio.wait_for(call, HANG_S))
    assert status in ALLOWED or (status == 500 and OVERFLOW.encode() in answer), (status, answer)
    if status != 200:
        message = json.loads(answer)["error"]
        assert message
        assert "\n" not in message
        assert len(message) < 1000
    if status == 503:
        assert int(back["retry-after"]) >= 1
    assert http.backend.open == 0
    return status


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A `ModelInferRequest` as bytes, seldom a good one."""
    message = pb.ModelInferRequest(
        model_name=draw(st.sampled_from(["mixed", "flat", "jagged", "none"])),
        model_version=draw(st.sampled_from(["", "", "1", "2"])),
        id=draw(st.text(max_size=5)),
    )
    schema = SCHEMAS.get(message.model_name, SCHEMAS["flat"])
    inputs = arrays(schema, draw(st.integers(0, 3)))
    raw = draw(st.booleans())
    spoil = draw(st.integers(-3, len(inputs) - 1))
    for number, (name, a) in enumerate(inputs.items()):
        datatype = "FP32" if a.dtype.kind == "f" else "INT32"
        shape: list[int] = list(a.shape)
        if number == spoil:
            name, datatype = draw(st.sampled_from(NAMES)), draw(st.sampled_from(DATATYPES))
            shape = draw(st.lists(st.integers(-2, 70), max_size=3))
        tensor = message.inputs.add(name=name, datatype=datatype, shape=shape)
        if raw:
            data = a.tobytes() if number != spoil else draw(st.binary(max_size=40))
            message.raw_input_contents.append(data)
        elif datatype == "FP32":
            tensor.contents.fp32_contents.extend(draw(st.just(a.reshape(-1).tolist())))
        else:
            bad = draw(st.lists(st.integers(-5, 1100), max_size=12)) if number == spoil else None
            tensor.contents.int_contents.extend(a.reshape(-1).tolist() if bad is None else bad)
    if draw(st.booleans()):
        p = message.parameters[draw(st.sampled_from(["timeout", "priority", "sequence_id", "x"]))]
        draw(
            st.sampled_from(
                [
                    lambda: setattr(p, "int64_param", -1), lambda: setattr(p, "int64_param", 5),
                    lambda: setattr(p, "uint64_param", 2**64 - 1), lambda: setattr(p, "string_param", "x"),
                    lambda: setattr(p, "bool_param", True), lambda: setattr(p, "double_param", float("nan")),
                ]
            )
        )()  # fmt: skip
    if draw(st.booleans()):
        message.outputs.add(name=draw(st.sampled_from(["scores", "scores", "y"])))
    body = bytearray(message.SerializeToString())
    if draw(st.integers(0, 3)) == 0 and body:
        body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
    return bytes(body)


grpc_requests = st.one_of(messages(), messages(), messages(), st.binary(max_size=100))


class _AbortedError(Exception):
    pass


class _Context:
    """A servicer's context, as far as the service needs one."""

    def __init__(self) -> None:
        self.aborted: tuple[grpc.StatusCode, str] | None = None
        self.trailing: Any = ()

    def time_remaining(self) -> float | None:
        return None

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def set_trailing_metadata(self, trailing: Any) -> None:
        self.trailing = trailing

    def trailing_metadata(self) -> Any:
        return self.trailing

    async def abort(self, code: grpc.StatusCode, details: str, trailing: Any = ()) -> None:
        self.aborted = code, details
        raise _AbortedError


class DirectRpc:
    """The gRPC service without a socket, from bytes to status."""

    def __init__(self, backend: StandIn) -> None:
        self.backend = backend
        service = GrpcService(Frontend(backend, Counters())).handler()

        class Details:
            method = "/inference.GRPCInferenceService/ModelInfer"
            invocation_metadata = ()

        self._handler = service.service(Details)

    def check(self, raw: bytes) -> str:
        """Send one; returns its status. Raises AssertionError if it is not one that may be given."""
        return self.answer(raw)[0]

    def answer(self, raw: bytes) -> tuple[str, str]:
        """As `check`, with the answer's details."""
        context = self.context = _Context()
        call: Callable[..., Any] = self._handler.unary_unary
        try:
            message = self._handler.request_deserializer(raw)
            response = asyncio.run(asyncio.wait_for(call(message, context), HANG_S))
            self._handler.response_serializer(response)
        except _AbortedError:
            assert context.aborted is not None
            code, details = context.aborted
            overflow = code is grpc.StatusCode.INTERNAL and OVERFLOW in details
            assert code in STATUSES or overflow, (code, details)
            assert details
            assert len(details) < 1000
            return str(code.name), details
        except DecodeError as e:
            raise AssertionError("bytes that are no message must be answered") from e
        finally:
            assert self.backend.open == 0
        return "OK", ""

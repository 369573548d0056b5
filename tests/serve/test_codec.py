"""Requests in, seats filled; bad ones refused in one line that names the field."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeprecsys.zoo.schema import DenseInput, Per, Schema, SparseInput, Table
from tests.serve.asgi import Direct
from tests.serve.bodies import arrays, binary_body, json_body
from tests.serve.stand_in import FLAT, JAGGED, MAX_ITEMS, MIXED, StandIn, expected_scores

Inputs = dict[str, Any]
ALIKE = Schema(
    tables=(Table("ads", 1000, 4),),
    inputs=(
        DenseInput("first", 2),
        DenseInput("second", 2),
        SparseInput("user", "ads", lookups=2, per=Per.QUERY),
        SparseInput("left", "ads", lookups=2),
        SparseInput("right", "ads", lookups=2),
    ),
)


@pytest.fixture
def http() -> Direct:
    return Direct(StandIn.of())


@pytest.fixture
def alike() -> Direct:
    return Direct(StandIn.of(alike=ALIKE))


def scores_of(doc: Any) -> np.ndarray:
    output = doc["outputs"][0]
    return np.array(output["data"], np.float32).reshape(output["shape"])


@settings(max_examples=60, deadline=None)
@given(
    items=st.integers(1, MAX_ITEMS),
    seed=st.integers(0, 2**32 - 1),
    ids=st.sampled_from(["i4", "i8"]),
    form=st.sampled_from(["flat", "nested", "binary", "chunks", "jagged"]),
)
def test_every_form_of_a_request_scores_alike(items: int, seed: int, ids: str, form: str) -> None:
    http = Direct(StandIn.of())
    inputs = arrays(MIXED, items, seed, ids)
    want = expected_scores(MIXED, inputs, items)
    if form in ("flat", "nested"):
        status, doc = http.infer("mixed", json_body(inputs, nested=form == "nested"))
    else:
        if form == "jagged":
            ad = inputs.pop("ad")
            inputs |= {"ad.values": ad.reshape(-1), "ad.lengths": np.full(items, 4, "i4")}
        head, raw = binary_body(inputs)
        body = head + raw
        cut = len(head) // 2
        chunks = (body[:cut], body[cut:-1], body[-1:]) if form == "chunks" else (body,)
        status, doc = http.infer("mixed", *chunks, head=len(head))
    assert status == 200, doc
    np.testing.assert_allclose(scores_of(doc), want, rtol=1e-6)
    assert http.backend.open == 0


@settings(max_examples=40, deadline=None)
@given(
    items=st.integers(1, MAX_ITEMS),
    seed=st.integers(0, 2**32 - 1),
    ids=st.sampled_from(["i4", "i8"]),
    form=st.sampled_from(["json", "binary", "padded", "padded json", "unweighted"]),
)
def test_every_form_of_rows_of_different_lengths_scores_alike(
    items: int, seed: int, ids: str, form: str
) -> None:
    http = Direct(StandIn.of())
    inputs = arrays(JAGGED, items, seed, ids)
    if form == "unweighted":
        del inputs["tags.weights"]
    want = expected_scores(JAGGED, inputs, items)
    if form.startswith("padded"):
        for name in ("tags", "history"):
            inputs |= padded(inputs, name, JAGGED)
    if form.endswith("json"):
        status, doc = http.infer("jagged", json_body(inputs))
    else:
        head, raw = binary_body(inputs)
        status, doc = http.infer("jagged", head + raw, head=len(head))
    assert status == 200, doc
    np.testing.assert_allclose(scores_of(doc), want, rtol=1e-5)


def padded(inputs: Inputs, name: str, schema: Schema) -> Inputs:
    """A jagged input as [rows, most ids], -1 where there is none; its three tensors are taken out."""
    most = next(i.lookups for i in schema.jagged if i.name == name)
    values, lengths = inputs.pop(f"{name}.values"), inputs.pop(f"{name}.lengths")
    rows = np.full((len(lengths), most), -1, values.dtype)
    place = np.arange(most) < lengths[:, None]
    rows[place] = values
    found: Inputs = {name: rows}
    if (weights := inputs.pop(f"{name}.weights", None)) is not None:
        found[f"{name}.weights"] = np.zeros(rows.shape, "f4")
        found[f"{name}.weights"][place] = weights
    return found


def test_binary_scores_come_back_as_binary(http: Direct) -> None:
    inputs = arrays(MIXED, 5)
    head, raw = binary_body(
        inputs, id="q1", outputs=[{"name": "scores", "parameters": {"binary_data": True}}]
    )
    _, body, headers = http.post("/v2/models/mixed/infer", head + raw, head=len(head))
    size = int(headers["inference-header-content-length"])
    doc = json.loads(body[:size])
    assert doc["id"] == "q1"
    assert doc["outputs"][0]["parameters"] == {"binary_data_size": 40}
    np.testing.assert_array_equal(
        np.frombuffer(body[size:], "<f4").reshape(5, 2), expected_scores(MIXED, inputs, 5)
    )


def test_heads_that_are_alike_keep_their_own_ids_and_data(http: Direct) -> None:
    for i, id_ in enumerate(["a", "b", "ü", '"', "", "a"]):
        inputs = arrays(MIXED, 3, seed=i)
        head, raw = binary_body(inputs, id=id_)
        status, doc = http.infer("mixed", head + raw, head=len(head))
        assert (status, doc.get("id", "")) == (200, id_)
        np.testing.assert_allclose(scores_of(doc), expected_scores(MIXED, inputs, 3), rtol=1e-6)


def test_a_head_of_one_model_does_not_pass_for_another(http: Direct) -> None:
    head, raw = binary_body(arrays(MIXED, 3))
    assert http.infer("mixed", head + raw, head=len(head))[0] == 200
    assert http.infer("flat", head + raw, head=len(head))[0] == 400


def test_dense_inputs_are_converted(http: Direct) -> None:
    inputs = arrays(FLAT, 2)
    for kind in ("f2", "f8"):
        inputs["dense"] = np.array([[0.5, 1, 2], [3, 4, -0.25]], kind)
        head, raw = binary_body(inputs)
        status, doc = http.infer("flat", head + raw, head=len(head))
        assert status == 200
        np.testing.assert_allclose(scores_of(doc), expected_scores(FLAT, inputs, 2))


def test_tensors_may_come_in_any_order(alike: Direct) -> None:
    inputs = arrays(ALIKE, 7)
    for order in permutations(inputs):
        head, raw = binary_body({n: inputs[n] for n in order})
        status, doc = alike.infer("alike", head + raw, head=len(head))
        assert status == 200
        np.testing.assert_allclose(scores_of(doc), expected_scores(ALIKE, inputs, 7), rtol=1e-5)


def test_the_one_of_several_like_inputs_that_has_no_number_is_named(alike: Direct) -> None:
    for name in ("first", "second"):
        inputs = arrays(ALIKE, 3)
        inputs[name][2, 1] = np.inf
        head, raw = binary_body(inputs)
        status, doc = alike.infer("alike", head + raw, head=len(head))
        assert status == 400
        assert doc["error"] == f"input {name!r}: expected finite numbers, got inf at [2, 1]"


def test_timeout_is_a_deadline_and_priority_an_order(http: Direct) -> None:
    for priority, want in ((0, 0), (1, -4), (5, 0), (9, 4)):
        parameters = {"timeout": 2_000_000, "priority": priority}
        assert http.infer("flat", json_body(arrays(FLAT, 1), parameters=parameters))[0] == 200
        seat = http.backend.seats[-1]
        assert seat.deadline_s is not None
        assert seat.deadline_s - seat.arrival_s == pytest.approx(2.0)
        assert seat.priority == want
    http.infer("flat", json_body(arrays(FLAT, 1)))
    assert http.backend.seats[-1].deadline_s is None


def _with(name: str, value: Any) -> Callable[[Inputs], None]:
    return lambda inputs: inputs.update({name: value})


def _jagged(lengths: list[int] | None, values: int = 8) -> Callable[[Inputs], None]:
    def change(inputs: Inputs) -> None:
        inputs["ad.values"] = inputs.pop("ad").reshape(-1)[:values]
        if lengths:
            inputs["ad.lengths"] = np.array(lengths, "i4")

    return change


WRONG: list[tuple[str, Callable[[Inputs], Any], str]] = [
    ("missing", lambda i: i.pop("ad"), "input 'ad': expected a tensor of that name, got none"),
    ("extra", _with("more", np.zeros((2, 2), "f4")), "input 'more': expected only dense, user, ad"),
    ("type", _with("ad", np.zeros((2, 4), "f4")), "input 'ad': expected datatype INT32 or INT64, got 'FP32'"),
    ("ids", _with("dense", np.zeros((2, 3), "i4")), "expected datatype FP32 or FP64 or FP16, got 'INT32'"),
    ("width", _with("ad", np.zeros((2, 5), "i4")), "input 'ad': expected shape [items, 4], got [2, 5]"),
    ("rank", _with("ad", np.zeros(8, "i4")), "input 'ad': expected shape [items, 4], got [8]"),
    ("items", _with("ad", np.zeros((3, 4), "i4")), "input 'ad': expected 2 items, as in 'dense', got 3"),
    ("per query", _with("user", np.zeros((2, 2), "i4")), "input 'user': expected first dimension 1"),
    ("nan", _with("dense", np.array([[1, 2, 3], [4, np.nan, 6]], "f4")), "finite numbers, got nan at [1, 1]"),
    ("inf", _with("dense", np.full((2, 3), 1e300)), "expected finite numbers, got inf at [0, 0]"),
    ("int64", _with("ad", np.full((2, 4), 2**40)), "to 2147483647, got 1099511627776 at [0, 0]"),
    ("table", _with("ad", np.full((2, 4), 1000, "i4")), "input 'ad': expected ids from 0 to 999"),
    ("lengths", _jagged([3, 5]),
     "input 'ad.lengths': expected 4 in every row (the model takes no other length), got 3 at [0]"),
    ("values", _jagged([4, 4], 7),
     "input 'ad.values': expected 2 × 4 ids"),
    ("half", _jagged(None), "input 'ad.lengths': expected it beside"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_a_wrong_tensor_is_named(http: Direct, change: Callable[[Inputs], Any], said: str) -> None:
    inputs = arrays(MIXED, 2)
    change(inputs)
    head, raw = binary_body(inputs)
    status, doc = http.infer("mixed", head + raw, head=len(head))
    assert status == 400
    assert said in doc["error"]
    assert "\n" not in doc["error"]
    assert http.backend.open == 0


@pytest.mark.parametrize("items", [0, MAX_ITEMS + 1])
def test_the_number_of_items_is_bounded(http: Direct, items: int) -> None:
    status, doc = http.infer("flat", json_body(arrays(FLAT, items)))
    assert status == 400
    assert doc["error"] == f"input 'dense': expected 1 to {MAX_ITEMS} items, got {items}"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "expected JSON"),
        (b"{", "expected JSON"),
        (b"[]", "expected a JSON object, got a list"),
        (b"[" * 50_000, "expected JSON"),
        (b'{"inputs":' + b"[" * 900 + b"]" * 900 + b"}", "inputs[0]: expected an object, got a list"),
        (b'{"inputs":{}}', "inputs: expected a list of tensors, got an object"),
        (b'{"inputs":[{"name":1}]}', "inputs[0].name: expected a string, got 1"),
        (b'{"inputs":[{"name":"x","datatype":"FP32","shape":[-1],"data":[]}]}', "expected dimensions from 0"),
        (b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1]}]}', "got neither"),
        (b'{"id":7,"inputs":[]}', "id: expected a string, got a number"),
        (b'{"inputs":[],"parameters":{"timeout":-1}}', "parameter timeout: expected a whole number"),
        (b'{"inputs":[],"parameters":{"priority":10}}', "parameter priority: expected at most 9, got 10"),
        (b'{"inputs":[],"parameters":{"sequence_id":3}}', "parameter sequence_id: expected none, got 3"),
        (b'{"inputs":[],"outputs":[{"name":"x"}]}', "output 'x': expected one of 'scores'"),
    ],
)
def test_a_body_that_is_no_request_is_explained(http: Direct, body: bytes, said: str) -> None:
    status, doc = http.infer("flat", body)
    assert status == 400
    assert said in doc["error"]


def test_json_values_must_be_numbers_of_the_right_kind(http: Direct) -> None:
    good = json.loads(json_body(arrays(FLAT, 1)))
    for at, value, said in (
        (0, [1, "2", 3], "expected numbers, got '2'"),
        (0, [1, None, 3], "expected numbers, got None"),
        (0, [1, 2], "expected 3 values for shape [1, 3], got 2"),
        (0, [[1, 2]], "expected 1 lists of 3 values each"),
        (1, [1.0], "expected whole numbers, got 1.0"),
        (1, [True], "expected whole numbers, got True"),
        (1, [2**63], "got a larger number"),
    ):
        doc = json.loads(json.dumps(good))
        doc["inputs"][at]["data"] = value
        status, answer = http.infer("flat", json.dumps(doc).encode())
        assert (status, said in answer["error"]) == (400, True), answer


def test_binary_data_must_be_as_long_as_they_say(http: Direct) -> None:
    head, raw = binary_body(arrays(FLAT, 2))
    for body, length, said in (
        (head + raw[:-1], len(head), "binary data: expected 32 bytes"),
        (head + raw + b"x", len(head), "binary data: expected 32 bytes after the JSON part"),
        (head + raw, len(head) - 1, "expected JSON"),
        (head + raw, len(head) + 1, "expected JSON"),
        (head + raw, len(head + raw) + 1, "Inference-Header-Content-Length: expected at most"),
        (head + raw, "x", "Inference-Header-Content-Length: expected a number of bytes, got 'x'"),
        (head, len(head), "binary data: expected 32 bytes"),
    ):
        status, doc = http.infer("flat", body, head=length)
        assert (status, said in doc["error"]) == (400, True), doc


def test_a_duplicate_tensor_is_refused(http: Direct) -> None:
    doc = json.loads(json_body(arrays(FLAT, 1)))
    doc["inputs"].append(doc["inputs"][0])
    status, answer = http.infer("flat", json.dumps(doc).encode())
    assert (status, answer["error"]) == (400, "input 'dense': expected once, got it twice")


def test_messages_stay_short_whatever_is_sent(http: Direct) -> None:
    doc = {"inputs": [{"name": "n\n" * 5000, "datatype": "d" * 5000, "shape": [1] * 9, "data": ["x" * 9999]}]}
    status, answer = http.infer("flat", json.dumps(doc).encode())
    assert status == 400
    assert len(answer["error"]) < 300
    assert "\n" not in answer["error"]

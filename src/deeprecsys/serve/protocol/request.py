"""An inference request of the Open Inference Protocol v2: JSON, binary tensors or protobuf, for any model.

`inputs.py` checks a request against a model's schema. Nothing that a client sends is unpickled, evaluated or
imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from deeprecsys.serve.protocol.errors import RequestError, shown

MAX_RANK = 8
PRIORITIES = 9
DEFAULT_PRIORITY = 5
"""Priorities are those of Triton's schedule policy: 1 goes first, 0 means the default."""


@dataclass(slots=True)
class Tensor:
    """One input: raw little-endian row-major bytes, or values.

    Attributes:
        size: of the raw data in bytes; None where the data are values.
        data: a flat or nested list of numbers; or the raw data, None where they are part of a body.
        offset: of the raw data in the body, from the end of its JSON part.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    size: int | None
    data: Any = None
    offset: int = 0


@dataclass(slots=True)
class Request:
    """An inference request.

    Attributes:
        timeout_s: from arrival to answer; None where the client sets none.
        priority: smaller goes first; 0 by default.
        outputs: names of the wanted outputs, and whether each is to be binary; empty: all of them.
        binary_output: whether outputs that are not named are to be binary.
    """

    id: str = ""
    inputs: list[Tensor] = field(default_factory=list)
    timeout_s: float | None = None
    priority: int = 0
    outputs: dict[str, bool] = field(default_factory=dict)
    binary_output: bool = False
    _binary_size: int = -1

    @property
    def binary_size(self) -> int:
        """Bytes of binary data that must follow the head; counted once, when `inputs` is complete."""
        if self._binary_size < 0:
            self._binary_size = sum(t.size or 0 for t in self.inputs)
        return self._binary_size

    def deadline_s(self, arrival_s: float) -> float | None:
        return None if self.timeout_s is None else arrival_s + self.timeout_s


def parse_head(head: bytes) -> Request:
    """The JSON part of an HTTP body; binary data follow it.

    Raises:
        RequestError: it is not JSON, or not an inference request.
    """
    try:
        doc = orjson.loads(head)
    except orjson.JSONDecodeError as e:
        raise RequestError(f"body: expected JSON, got an error at byte {e.pos}: {e.msg}") from None
    if not isinstance(doc, dict):
        raise RequestError(f"body: expected a JSON object, got {_kind(doc)}")
    request = Request(id=_typed(doc, "id", str, "a string", ""))
    _parameters(request, _typed(doc, "parameters", dict, "an object", {}))
    inputs = doc.get("inputs")
    if not isinstance(inputs, list):
        raise RequestError(f"inputs: expected a list of tensors, got {_kind(inputs)}")
    request.inputs = [_tensor(i, number) for number, i in enumerate(inputs)]
    at = 0
    for tensor in request.inputs:
        tensor.offset = at
        at += tensor.size or 0
    for number, o in enumerate(_typed(doc, "outputs", list, "a list", [])):
        if not isinstance(o, dict) or not isinstance(o.get("name"), str):
            raise RequestError(f"outputs[{number}]: expected an object with a name, got {shown(o)}")
        name, parameters = o["name"], _typed(o, "parameters", dict, "an object", {})
        _refuse_shared_memory(f"output {shown(name)}", parameters)
        if name in request.outputs:
            raise RequestError(f"output {shown(name)}: expected once, got it twice")
        request.outputs[name] = _flag(
            f"output {shown(name)}", parameters, "binary_data", request.binary_output
        )
    return request


def verb_parameters(body: bytes) -> dict[str, Any]:
    """The parameters of a request that is a JSON object with nothing else, or empty.

    Raises:
        RequestError: it is another.
    """
    try:
        doc = orjson.loads(body) if body.strip() else {}
    except orjson.JSONDecodeError as e:
        raise RequestError(f"body: expected JSON, got an error at byte {e.pos}: {e.msg}") from None
    if not isinstance(doc, dict) or set(doc) - {"parameters"}:
        raise RequestError(f"body: expected a JSON object with parameters, got {shown(doc)}")
    return _typed(doc, "parameters", dict, "an object", {})  # type: ignore[no-any-return]


def check_binary(request: Request, size: int) -> None:
    """Raise RequestError unless its tensors add up to the `size` bytes after the JSON part."""
    if request.binary_size != size:
        raise RequestError(
            f"binary data: expected {request.binary_size} bytes after the JSON part, the sum of all "
            f"binary_data_size, got {size}"
        )


def set_schedule(request: Request, timeout_us: Any, priority: Any) -> None:
    """Set a request's timeout (given in microseconds, 0 for none) and priority.

    Raises:
        RequestError: they are not whole numbers, or negative, or there is no such priority.
    """
    for name, value in (("timeout", timeout_us), ("priority", priority)):
        if type(value) is not int or not 0 <= value < 2**63:
            raise RequestError(f"parameter {name}: expected a whole number of at least 0, got {shown(value)}")
    if priority > PRIORITIES:
        raise RequestError(f"parameter priority: expected at most {PRIORITIES}, got {priority}")
    request.timeout_s = timeout_us / 1e6 if timeout_us else None
    request.priority = priority - DEFAULT_PRIORITY if priority else 0


def checked_shape(name: str, shape: Sequence[Any]) -> tuple[int, ...]:
    """A shape, if it can be one.

    Raises:
        RequestError: a dimension is not a whole number of at least 0, or there are too many.
    """
    if len(shape) > MAX_RANK:
        raise RequestError(f"input {shown(name)}: expected at most {MAX_RANK} dimensions, got {len(shape)}")
    for n in shape:
        if type(n) is not int or not 0 <= n < 2**31:
            raise RequestError(
                f"input {shown(name)}: expected dimensions from 0 to 2^31 - 1, got {shown(list(shape))}"
            )
    return tuple(shape)


def _tensor(doc: Any, number: int) -> Tensor:
    if not isinstance(doc, dict):
        raise RequestError(f"inputs[{number}]: expected an object, got {_kind(doc)}")
    name, datatype, shape = doc.get("name"), doc.get("datatype"), doc.get("shape")
    if type(name) is not str:
        raise RequestError(f"inputs[{number}].name: expected a string, got {shown(name)}")
    if type(datatype) is not str:
        raise RequestError(f"input {shown(name)}: expected a datatype such as FP32, got {shown(datatype)}")
    if type(shape) is not list:
        raise RequestError(f"input {shown(name)}: expected a shape, a list of numbers, got {shown(shape)}")
    parameters = doc.get("parameters")
    size = None
    if parameters is not None:
        if type(parameters) is not dict:
            raise RequestError(
                f"input {shown(name)}: expected parameters as an object, got {shown(parameters)}"
            )
        _refuse_shared_memory(f"input {shown(name)}", parameters)
        size = parameters.get("binary_data_size")
    data = doc.get("data")
    if (data is None) == (size is None):
        raise RequestError(
            f"input {shown(name)}: expected either data or the parameter binary_data_size, got "
            + ("neither" if data is None else "both")
        )
    if size is not None and (type(size) is not int or not 0 <= size < 2**40):
        raise RequestError(f"input {shown(name)}: expected binary_data_size in bytes, got {shown(size)}")
    if size is None and type(data) is not list:
        raise RequestError(f"input {shown(name)}: expected data as a list, got {_kind(data)}")
    return Tensor(name, datatype, checked_shape(name, shape), size, data)


def _parameters(request: Request, parameters: Mapping[str, Any]) -> None:
    if not parameters:
        return
    refuse_sequence(parameters)
    set_schedule(request, parameters.get("timeout", 0), parameters.get("priority", 0))
    request.binary_output = _flag("request", parameters, "binary_data_output", False)


def refuse_sequence(parameters: Mapping[str, Any]) -> None:
    """Raise RequestError for a request of a sequence: this server keeps no state between requests."""
    if parameters.get("sequence_id"):
        raise RequestError(f"parameter sequence_id: expected none, got {shown(parameters['sequence_id'])}")


def _refuse_shared_memory(of: str, parameters: Mapping[str, Any]) -> None:
    for name in ("shared_memory_region", "classification"):
        if name in parameters:
            raise RequestError(f"{of}: the parameter {name} is not supported; send and fetch the data itself")


def _flag(of: str, parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise RequestError(f"{of}: parameter {name}: expected true or false, got {shown(value)}")
    return value


def _typed(doc: Mapping[str, Any], key: str, kind: type, expected: str, default: Any) -> Any:
    value = doc.get(key)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise RequestError(f"{key}: expected {expected}, got {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "nothing"}
    return names.get(type(value), "a number")

"""An inference request from its protobuf message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deeprecsys.serve.protocol.errors import RequestError, shown
from deeprecsys.serve.protocol.request import Request, Tensor, checked_shape, refuse_sequence, set_schedule

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


def request_of(message: Any) -> Request:
    """The request of a `ModelInferRequest`; data are not copied.

    Raises:
        RequestError: tensors and data do not match, or a parameter is wrong.
    """
    request = Request(id=message.id, outputs={o.name: True for o in message.outputs})
    if message.parameters:
        parameters = parameter_values(message.parameters)
        refuse_sequence(parameters)
        set_schedule(request, parameters.get("timeout", 0), parameters.get("priority", 0))
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise RequestError(
            f"raw_input_contents: expected one for each of the {len(message.inputs)} inputs, got {len(raw)}"
        )
    for number, i in enumerate(message.inputs):
        if "shared_memory_region" in i.parameters:
            raise RequestError(
                f"input {shown(i.name)}: shared_memory_region is not supported; send the data itself"
            )
        if raw:
            if i.HasField("contents"):
                raise RequestError(
                    f"input {shown(i.name)}: expected contents or raw_input_contents, got both"
                )
            data: Any = raw[number]
            size = len(data)
        else:
            data, size = _contents(i), None
        request.inputs.append(Tensor(i.name, i.datatype, checked_shape(i.name, i.shape), size, data))
    return request


def _contents(i: Any) -> Any:
    """The typed contents of an input."""
    field = _CONTENTS.get(i.datatype)
    return list(getattr(i.contents, field)) if field else []


def parameter_values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as Python values."""
    found = {}
    for name, p in parameters.items():
        kind = p.WhichOneof("parameter_choice")
        found[name] = getattr(p, kind) if kind else None
    return found

"""The reply to an inference request: scores as JSON, or as binary after a JSON part."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from deeprecsys.serve.protocol.inputs import OUTPUT
from deeprecsys.serve.protocol.request import Request


def http_reply(request: Request, model: str, version: str, scores: NDArray[Any]) -> tuple[bytes, int | None]:
    """The body of a reply, and the length of its JSON part where binary data follows.

    Args:
        scores: float32 [items, outputs]; it is copied.
    """
    output: dict[str, Any] = {"name": OUTPUT, "datatype": "FP32", "shape": scores.shape}
    doc = {"model_name": model, "model_version": version, "outputs": [output]}
    if request.id:
        doc["id"] = request.id
    if request.outputs.get(OUTPUT, request.binary_output):
        raw = scores.astype("<f4", copy=False).tobytes()
        output["parameters"] = {"binary_data_size": len(raw)}
        head = orjson.dumps(doc)
        return head + raw, len(head)
    output["data"] = np.ascontiguousarray(scores).reshape(-1)
    return orjson.dumps(doc, option=orjson.OPT_SERIALIZE_NUMPY), None

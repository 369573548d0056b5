"""Requests as clients make them, by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.zoo.schema import DenseInput, Per, Schema

TYPES = {"f4": "FP32", "f8": "FP64", "f2": "FP16", "i4": "INT32", "i8": "INT64", "u1": "UINT8"}
Arrays = Mapping[str, NDArray[Any]]


def arrays(schema: Schema, items: int, seed: int = 0, ids: str = "i4") -> dict[str, NDArray[Any]]:
    """Tensors of a query; ids within every table of the stand-in's schemas."""
    rng = np.random.default_rng(seed)
    found: dict[str, NDArray[Any]] = {}
    for i in schema.inputs:
        rows = 1 if i.per is Per.QUERY else items
        if isinstance(i, DenseInput):
            found[i.name] = rng.standard_normal((rows, i.width)).astype("f4")
        elif i.jagged:
            lengths = rng.integers(0, i.lookups + 1, rows).astype(ids)
            found[f"{i.name}.values"] = rng.integers(0, 100, lengths.sum()).astype(ids)
            found[f"{i.name}.lengths"] = lengths
            if i.weighted:
                found[f"{i.name}.weights"] = rng.random(lengths.sum()).astype("f4")
        else:
            found[i.name] = rng.integers(0, 100, (rows, i.lookups)).astype(ids)
    return found


def json_body(inputs: Arrays, nested: bool = False, **more: Any) -> bytes:
    tensors = [
        {**_head(n, a), "data": a.tolist() if nested else a.reshape(-1).tolist()} for n, a in inputs.items()
    ]
    return json.dumps({"inputs": tensors, **more}).encode()


def binary_body(inputs: Arrays, **more: Any) -> tuple[bytes, bytes]:
    """JSON part and binary data."""
    tensors = [{**_head(n, a), "parameters": {"binary_data_size": a.nbytes}} for n, a in inputs.items()]
    head = json.dumps({**more, "inputs": tensors}, separators=(",", ":")).encode()
    return head, b"".join(a.tobytes() for a in inputs.values())


def _head(name: str, a: NDArray[Any]) -> dict[str, Any]:
    return {"name": name, "shape": list(a.shape), "datatype": TYPES[a.dtype.str[1:]]}

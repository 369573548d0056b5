"""Server, models and how they are served, in the terms of the protocol and of Triton's extensions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from deeprecsys.node.service.backend import READY, UNAVAILABLE, HeldVersion, ServedModel
from deeprecsys.serve.protocol.request import DEFAULT_PRIORITY, PRIORITIES
from deeprecsys.version import VERSION
from deeprecsys.zoo.jagged import LENGTHS, VALUES, WEIGHTS
from deeprecsys.zoo.schema import DenseInput, Per, Schema, TensorSpec

SERVER = "deeprecsys"
PLATFORM = "deeprecsys"
EXTENSIONS = (
    "model_configuration",
    "model_repository",
    "binary_tensor_data",
    "parameters",
    "schedule_policy",
    "statistics",
)


def server_document() -> dict[str, Any]:
    """The server's metadata."""
    return {"name": SERVER, "version": VERSION, "extensions": list(EXTENSIONS)}


def model_document(model: ServedModel) -> dict[str, Any]:
    """A model's metadata. -1 in a shape is the number of items, 1 means once per query."""
    signature = model.schema.signature
    return {
        "name": model.name,
        "versions": list(model.versions),
        "platform": PLATFORM,
        "inputs": [_tensor(t) for t in _sent(model.schema)],
        "outputs": [_tensor(t) for t in signature.outputs],
    }


def config_document(model: ServedModel) -> dict[str, Any]:
    """A model's configuration, as Triton's extension has it.

    Where every input is per item, items are the protocol's batch dimension: `max_batch_size` is the
    largest query and dimensions leave the items out. Otherwise the inputs share no first dimension, and
    `max_batch_size` 0 says that shapes include the items; so it does where a tensor has no other dimension.
    """
    signature, sent = model.schema.signature, _sent(model.schema)
    batched = all(t.per is Per.ITEM and t.row for t in (*sent, *signature.outputs))
    return {
        "name": model.name,
        "platform": PLATFORM,
        "backend": SERVER,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": model.max_items if batched else 0,
        "input": [_config_tensor(t, batched) for t in sent],
        "output": [_config_tensor(t, batched) for t in signature.outputs],
        "dynamic_batching": {"priority_levels": PRIORITIES, "default_priority_level": DEFAULT_PRIORITY},
        "parameters": {key: {"string_value": value} for key, value in _parameters(model).items()},
    }


def _parameters(model: ServedModel) -> Mapping[str, str]:
    found = {
        "engine": model.engine,
        "target_ms": f"{1e3 * model.target.latency_s:g}",
        "target_quantile": f"{model.target.quantile:g}",
        "max_items": str(model.max_items),
        "split": "true" if model.split else "false",
    }
    return found | {k: v if isinstance(v, str) else f"{v}" for k, v in model.config.items()}


def index_document(
    models: Mapping[str, ServedModel], refused: Callable[[str], tuple[str, str]] = lambda _: ("", "")
) -> list[dict[str, str]]:
    """The models' versions, as the repository extension lists them.

    Args:
        refused: by model, the version whose load was refused last, and why; "" for none.
    """
    found = []
    for m in models.values():
        held = m.held or (HeldVersion(m.version, READY if m.ready else UNAVAILABLE),)
        last = HeldVersion(refused(m.name)[0], UNAVAILABLE, refused(m.name)[1])
        if last.reason and last.version not in (v.version for v in held):
            held = (*held, last)
        for v in held:
            state = v.state if m.ready or v.state != READY else UNAVAILABLE
            found.append({"name": m.name, "version": v.version, "state": state, "reason": v.reason})
    return found


def _sent(schema: Schema) -> list[TensorSpec]:
    """The tensors of a request; two or three of a jagged input, each of one dimension that is not fixed."""
    jagged, found = {i.name: i for i in schema.jagged}, []
    for t in schema.signature.inputs:
        if (i := jagged.get(t.feeds[0].input)) is None:
            found.append(t)
            continue
        kinds = [(VALUES, t.datatype), (LENGTHS, t.datatype)]
        kinds += [(WEIGHTS, DenseInput.datatype)] if i.weighted else []
        found += [TensorSpec(t.name + name, datatype, ()) for name, datatype in kinds]
    return found


def _tensor(t: TensorSpec) -> dict[str, Any]:
    return {"name": t.name, "datatype": t.datatype, "shape": list(t.shape)}


def _config_tensor(t: TensorSpec, batched: bool) -> dict[str, Any]:
    dims = t.row if batched else t.shape
    return {"name": t.name, "data_type": f"TYPE_{t.datatype}", "dims": list(dims)}

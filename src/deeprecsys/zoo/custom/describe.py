"""A process that loads a user's own model and describes it:
`python -m deeprecsys.zoo.custom.describe FD NAME`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from deeprecsys.core.errors import InputError
from deeprecsys.plugins import RAISED, reason
from deeprecsys.zoo.custom import archive, weights
from deeprecsys.zoo.custom.graph import Lifted, lift
from deeprecsys.zoo.custom.model import CustomSpec, FileKind, Own, OwnModel, parse
from deeprecsys.zoo.custom.module import Module, written
from deeprecsys.zoo.custom.normal import read_onnx
from deeprecsys.zoo.custom.prepare import child
from deeprecsys.zoo.custom.rewritten import SCALES, TOLERANCE, close, rewritten
from deeprecsys.zoo.custom.stage import GraphStage, OwnDense, class_stage, own_model_of, random_rows
from deeprecsys.zoo.schema import SCORES, Per, Schema
from deeprecsys.zoo.tensor_file import table_keys

Rows = Mapping[str, NDArray[Any]]
"""Rows of the dense stage by input name."""
ITEMS = 13
MANY = 2000
"""Items of one call, so that values show which are rare."""
ID_COLUMNS = (
    "values are standard normal: where a float input has columns of ids, state these, "
    "DenseInput(NAME, WIDTH, ids=((COLUMN, HOW_MANY), ...)), or make them an input of their own"
)
_OUT_OF_BOUNDS = re.compile("index|indices|out of (bounds|range)", re.IGNORECASE)
_CUTS = (0, 1, 6, ITEMS)


def describe(name: str) -> Own:
    """Load the model of that name, all of it, and find out what serving it needs.

    Raises:
        InputError: it cannot be loaded, or not be served.
    """
    spec = parse(name)
    made = own_model_of(spec) if spec.kind is FileKind.CLASS else None
    if isinstance(made, OwnModel):
        return _class(spec, made)
    try:
        kind, module = (FileKind.MODULE, Module.of(spec)) if made is not None else (spec.kind, None)
        lifted = _lifted(spec, module)
        schema = lifted.schema
        if module and not module.scores_as(lifted):
            raise InputError("the exported program scores otherwise than the module: a size that Python "
                             "reads, by len(x) for example, is a constant of it")  # fmt: skip
        splits = _splittable(schema, GraphStage(lifted.graph))
        return Own(
            name=name,
            kind=kind,
            full=schema,
            dense_parameters=lifted.parameters,
            costs={Per.ITEM: lifted.flops, Per.QUERY: 0},
            splittable=splits,
            keys=lifted.keys,
            **rewritten(schema, lifted.graph, splits)._asdict(),
            notes=lifted.notes,
        )
    except InputError as e:
        raise InputError(f"model {name}: {str(e).removeprefix(f'model {name}: ')}") from e


def _class(spec: CustomSpec, made: OwnModel) -> Own:
    module, keys = class_stage(spec, made), _keys(spec, made)
    if spec.weights:
        _load(spec, made, module, keys)
    schema = made.schema
    try:
        _check_scores(schema, module)
        splits = _splittable(schema, module)
    except InputError as e:
        raise InputError(f"model {spec.text}: {e}") from e
    graph, error = _written(schema, module)
    return Own(
        name=spec.text,
        kind=spec.kind,
        full=schema,
        dense_parameters=sum(p.numel() for p in module.parameters()),
        costs=_flops(schema, module),
        splittable=splits,
        keys=keys,
        graph_error=error,
        **rewritten(schema, graph, splits)._asdict(),
    )


def _keys(spec: CustomSpec, made: OwnModel) -> dict[str, str]:
    if not spec.weights:
        return {}
    found = weights.read(spec.weights)
    return table_keys([t.name for t in made.schema.tables], found, made.table_keys)


def _load(spec: CustomSpec, made: OwnModel, module: nn.Module, keys: dict[str, str]) -> None:
    found, where = weights.read(spec.weights), f"--weights {spec.weights}"
    for t in made.schema.tables:
        weights.table(found, where, t.name, keys[t.name], (t.rows, t.dim))
    used = weights.load_dense(module, found, where, made.dense_prefix)
    weights.refuse_rest(found, used | set(keys.values()), where)


def _lifted(spec: CustomSpec, module: Module | None) -> Lifted:
    """A file's graph, or that of a user's module, taken apart."""
    if spec.kind is FileKind.ONNX:
        return _apart(read_onnx(spec.where), None, {})
    if module:
        return _apart(written(module.program), module.weights, module.most)
    program = archive.load(spec.where)
    weights.check_finite(program.state_dict, program.graph_signature.parameters, "weights")
    return _apart(written(program), program.state_dict, {})


def _apart(graph: Any, tensors: Mapping[str, Tensor] | None, most: Mapping[str, int]) -> Lifted:
    try:
        return lift(graph, tensors, most)
    except InputError:
        raise
    except Exception as e:  # onnx_ir reads constants when they are asked for: a damaged one raises only then
        raise InputError(f"expected a whole graph, got {reason(e)}") from e


@torch.inference_mode()
def _check_scores(schema: Schema, module: nn.Module) -> None:
    found = _called(OwnDense(module, schema), random_rows(schema, 3), 3)
    wanted = [3, schema.outputs]
    if not isinstance(found, Tensor) or list(found.shape) != wanted or found.dtype != torch.float32:
        got = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise InputError(f"dense stage: expected float32 scores {wanted} for 3 items, got {got}")


def _called(stage: OwnDense, rows: Rows, count: int) -> Any:
    """What a dense stage gives for the rows of `count` items.

    Raises:
        InputError: it raises. Where its inputs have columns of ids, these have to be known.
    """
    try:
        return stage(_tensors(rows), None)
    except InputError:
        raise
    except RAISED as e:
        said = reason(e)
        hint = f"; {ID_COLUMNS}" if _OUT_OF_BOUNDS.search(said) else ""
        raise InputError(f"dense stage: expected scores for {count} items, got {said}{hint}") from e


def _tensors(rows: Rows) -> dict[str, Tensor]:
    return {name: torch.from_numpy(r) for name, r in rows.items()}


def _flops(schema: Schema, module: nn.Module) -> dict[str, int]:
    """FLOPs per item and per query, from what two and three items take."""

    @torch.no_grad()
    def count(items: int) -> int:
        with FlopCounterMode(display=False) as counter:
            OwnDense(module, schema)(_tensors(random_rows(schema, items)), None)
        return int(counter.get_total_flops())

    two, three = count(2), count(3)
    return {Per.ITEM: three - two, Per.QUERY: max(0, 3 * two - 2 * three)}


class _Positional(nn.Module):
    """A dense stage with its inputs in the schema's order, as the exporter likes them."""

    def __init__(self, module: nn.Module, schema: Schema) -> None:
        super().__init__()
        self.module = module
        self._names, self._outputs = [i.name for i in schema.inputs], schema.outputs

    def forward(self, *rows: Tensor) -> Tensor:
        y: Tensor = self.module(**dict(zip(self._names, rows, strict=True)))
        return y.reshape(-1, self._outputs)


def _written(schema: Schema, module: nn.Module) -> tuple[bytes, str]:
    """The dense stage as ONNX, or no bytes and the reason.

    A size that Python read, by `len(x)` for example, may be a constant of the graph: hence the trial.
    """
    items = torch.export.Dim("n")
    shapes = tuple({0: items} if i.per is Per.ITEM else {} for i in schema.inputs)
    rows = _tensors(random_rows(schema, 5))
    try:
        made = torch.onnx.export(
            _Positional(module, schema),
            tuple(rows.values()),
            dynamic_shapes=(shapes,),
            input_names=list(rows),
            output_names=[SCORES],
            dynamo=True,
            verbose=False,
        )
        assert made is not None
        graph = made.model_proto.SerializeToString()
        return (graph, "") if _same(schema, module, graph) else (b"", "one that scores otherwise than torch")
    except Exception as e:
        return b"", reason(e)


@torch.inference_mode()
def _same(schema: Schema, module: nn.Module, graph: bytes) -> bool:
    """Whether a graph scores as the module that it was written from, also other numbers of items."""
    written, stage = GraphStage(graph), OwnDense(module, schema)
    for items in (1, 3, 12):
        rows = _tensors(random_rows(schema, items))
        if not close(written(**rows), stage(rows, None)):
            return False
    return True


@torch.inference_mode()
def _splittable(schema: Schema, module: nn.Module) -> bool:
    """Whether items keep their scores in another order, and in pieces.

    Raises:
        InputError: equal rows score differently from call to call, or not with every number of items.
    """
    stage = OwnDense(module, schema)
    _scores(schema, stage, random_rows(schema, MANY), slice(None), MANY)
    return all(_independent(schema, stage, scale) for scale in SCALES)


def _independent(schema: Schema, stage: OwnDense, scale: float) -> bool:
    rows = random_rows(schema, ITEMS, scale)
    whole = _scores(schema, stage, rows, slice(None), ITEMS)
    limit = TOLERANCE * max(1.0, float(np.nanmax(np.abs(whole), initial=0.0)))

    def unchanged(items: slice | NDArray[np.int64], count: int) -> bool:
        found = _scores(schema, stage, rows, items, count)
        return bool(np.allclose(found, whole[items], rtol=0, atol=limit, equal_nan=True))

    if not unchanged(slice(None), ITEMS):
        raise InputError("dense stage: expected the same scores for the same input, got others at each call")
    order = np.random.default_rng(1).permutation(ITEMS)
    return unchanged(order, ITEMS) and all(unchanged(slice(a, b), b - a) for a, b in pairwise(_CUTS))


def _scores(
    schema: Schema, stage: OwnDense, rows: Rows, items: slice | NDArray[np.int64], count: int
) -> NDArray[Any]:
    """The scores of some of the items, `count` of them, with all inputs that are per query."""
    some = {
        i.name: np.ascontiguousarray(rows[i.name][items] if i.per is Per.ITEM else rows[i.name])
        for i in schema.inputs
    }
    found: NDArray[Any] = _called(stage, some, count).numpy()
    if not len(found.shape) or found.shape[0] != count:
        raise InputError(f"dense stage: expected scores [{count}, ...], got shape {list(found.shape)}")
    return found


if __name__ == "__main__":
    child(lambda: describe(sys.argv[2]).pack())

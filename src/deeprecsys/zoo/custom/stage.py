"""A user's dense stage, from a class or a graph, behind the interface of the zoo's.

Imports the user's code, and so runs in workers and children only.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deeprecsys.core.errors import InputError
from deeprecsys.plugins import RAISED, import_module, reason
from deeprecsys.zoo.custom import weights
from deeprecsys.zoo.custom.model import CustomSpec, FileKind, Own, OwnModel, parse
from deeprecsys.zoo.onnx_session import session as onnx_session
from deeprecsys.zoo.onnx_session import with_weights
from deeprecsys.zoo.schema import Per, Schema, put_ids
from deeprecsys.zoo.tensor_file import TensorFile


def random_rows(schema: Schema, items: int, scale: float = 1.0, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Standard normal rows times `scale` by input name: `items` of them, one where the input is per query."""
    rng = np.random.default_rng(seed)
    shapes = {i.name: (items if i.per is Per.ITEM else 1, *schema.row_shape(i)) for i in schema.inputs}
    rows = {n: np.float32(scale) * rng.standard_normal(s, dtype=np.float32) for n, s in shapes.items()}
    for i in schema.dense:
        put_ids(i.ids, rows[i.name], lambda count, wanted: rng.integers(count, size=wanted))
    return rows


class OwnDense(nn.Module):
    """Calls the user's stage with one query's rows at a time.

    Slices of several queries are scored one by one, unless nothing is per query and items are scored
    independently: then an item's score does not depend on the others.

    Args:
        several: the stage for items of several queries (`Own.merged`), where there is one.
    """

    def __init__(
        self, inner: nn.Module, schema: Schema, splittable: bool = True, several: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.inner, self.several = inner, several
        self._per = {i.name: i.per for i in schema.inputs}
        self._outputs = schema.outputs
        self._together = splittable and Per.QUERY not in self._per.values()

    def forward(self, x: Mapping[str, Tensor], slice_of_item: Tensor | None) -> Tensor:
        """Rows by input name -> [n, outputs]."""
        if slice_of_item is None or self._together:
            return self._scores(x)
        if self.several is not None:
            found: Tensor = self.several(**{name: x[name] for name in self._per}, slice_of_item=slice_of_item)
            return found
        sizes = torch.bincount(slice_of_item).tolist()
        starts = np.cumsum([0, *sizes]).tolist()
        parts = [
            {name: x[name][a:b] if per is Per.ITEM else x[name][s : s + 1] for name, per in self._per.items()}
            for s, (a, b) in enumerate(pairwise(starts))
        ]
        return torch.cat([self._scores(part) for part in parts])

    def _scores(self, x: Mapping[str, Tensor]) -> Tensor:
        y: Tensor = self.inner(**{name: x[name] for name in self._per})
        return y.reshape(-1, 1) if y.ndim == 1 and self._outputs == 1 else y


class GraphStage(nn.Module):
    """An ONNX graph, called as a module would be. The graph is loaded at the first call."""

    def __init__(self, graph: bytes) -> None:
        super().__init__()
        self.graph = graph

    @cached_property
    def session(self) -> Any:
        return onnx_session(self.graph, torch.get_num_threads())

    def of(self, x: Mapping[str, Tensor]) -> Tensor:
        """The result for those of the tensors that are the graph's inputs."""
        return self(**{i.name: x[i.name] for i in self.session.get_inputs()})  # type: ignore[no-any-return]

    def forward(self, **x: Tensor) -> Tensor:
        found = self.session.run(None, {name: rows.contiguous().numpy() for name, rows in x.items()})
        return torch.from_numpy(found[0])


SEED = 0
"""Seed of a dense stage's weights where no file gives them."""


def own_model_of(spec: CustomSpec) -> OwnModel | nn.Module:
    """The user's class, instantiated, or what a function makes; drawn weights are those of `SEED`.

    Raises:
        InputError: its module cannot be imported, or it is neither an `OwnModel` with a schema nor a module.
    """
    try:
        module = import_module(spec.where)
    except RAISED as e:
        raise InputError(f"model {spec.text}: expected an importable module, got {reason(e)}") from e
    found = getattr(module, spec.attribute, None)
    if found is None:
        raise InputError(f"model {spec.text}: expected a class {spec.attribute!r} in {spec.where}, got none")
    expected = "a class of torch.nn.Module or deeprecsys.zoo.custom.OwnModel, or a function that makes one"
    if not callable(found) or (isinstance(found, type) and not issubclass(found, OwnModel | nn.Module)):
        kind = f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"
        raise InputError(f"model {spec.text}: expected {expected}, got {kind}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        try:
            made = found()
        except RAISED as e:
            raise InputError(f"model {spec.text}: expected a class without arguments, got {reason(e)}") from e
    if isinstance(made, nn.Module):
        return made.eval().requires_grad_(False)
    if not isinstance(made, OwnModel):
        raise InputError(f"model {spec.text}: expected {expected}, got a {type(made).__name__}")
    if not isinstance(getattr(made, "schema", None), Schema):
        raise InputError(f"model {spec.text}: expected an attribute `schema` of type Schema, got none")
    return made


def class_stage(spec: CustomSpec, made: OwnModel) -> nn.Module:
    """The class's dense stage, evaluating, its weights drawn from `SEED`.

    Raises:
        InputError: it is no module, or does not take the schema's inputs by name.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        try:
            module = made.dense_stage()
        except RAISED as e:
            raise InputError(f"model {spec.text}: dense_stage: expected a module, got {reason(e)}") from e
    if not isinstance(module, nn.Module):
        raise InputError(f"model {spec.text}: dense_stage: expected a module, got a {type(module).__name__}")
    names = [i.name for i in made.schema.inputs]
    try:
        inspect.signature(module.forward).bind(**dict.fromkeys(names))
    except TypeError as e:
        wanted = ", ".join(names)
        raise InputError(
            f"model {spec.text}: dense stage: expected forward({wanted}), got one with {e}"
        ) from e
    return module.eval().requires_grad_(False)


def custom_stage(own: Own, dense: TensorFile | None = None) -> nn.Module:
    """The dense stage of an own model, its weights in place.

    Args:
        dense: of a class, takes the place of its file of weights.

    Raises:
        InputError: a file's dense stage has no weights apart from the file.
    """
    inner: nn.Module = GraphStage(own.graph)
    if own.kind is FileKind.CLASS:
        spec = parse(own.name)
        made = own_model_of(spec)
        assert isinstance(made, OwnModel)
        inner = class_stage(spec, made)
        if dense:
            weights.load_all(inner, dense, made.dense_prefix)
        elif spec.weights:
            found = weights.read(spec.weights)
            weights.load_dense(inner, found, f"--weights {spec.weights}", made.dense_prefix)
    elif dense:
        raise InputError(
            f"{dense.where}: expected no weights of a dense stage, as {own.name} carries its own"
        )
    several = None
    if own.merged and own.kind is not FileKind.CLASS:
        several = GraphStage(with_weights(own.merged, own.graph))
    return OwnDense(inner, own.schema, own.splittable, several).eval()

"""A user's plain PyTorch module as an exported program: made from example inputs, without a schema.

Imports the user's code, and so runs in children only.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deeprecsys.core.errors import InputError
from deeprecsys.plugins import RAISED, import_module, reason
from deeprecsys.zoo.custom import weights
from deeprecsys.zoo.custom.model import CustomSpec
from deeprecsys.zoo.custom.normal import normalised, values_of
from deeprecsys.zoo.custom.stage import GraphStage, own_model_of
from deeprecsys.zoo.schema import Pooling, Schema, SparseInput

if TYPE_CHECKING:
    from deeprecsys.zoo.custom.graph import Lifted

EXAMPLES = "example_inputs"
"""The function, of the module or of its file, that returns example inputs."""
_SIZES = (1, 2, 3, 12)
_TOLERANCE = 1e-4  # of the largest score


def user_module(spec: CustomSpec) -> nn.Module:
    """The user's module, its weights in place.

    Raises:
        InputError: it is none, or the weights are another's.
    """
    module = own_model_of(spec)
    if not isinstance(module, nn.Module):
        raise InputError(f"model {spec.text}: expected a module as before, got another")
    if spec.weights:
        found, where = weights.read(spec.weights), f"--weights {spec.weights}"
        weights.refuse_rest(found, weights.load_dense(module, found, where, ""), where)
    return module


def written(program: torch.export.ExportedProgram) -> Any:
    """An exported program as an ONNX graph, `normalised`; its outputs have the program's names.

    Raises:
        InputError: torch cannot write it.
    """
    try:
        made = torch.onnx.export(program, dynamo=True, verbose=False)
        assert made is not None
        graph, names = made.model.graph, program.graph_signature.user_outputs
        for value in values_of(graph):
            if value.name in names and value.producer() is not None:
                value.name = f"{value.name}/within"
        for value, name in zip(graph.outputs, names, strict=True):
            value.name = name  # the exporter's own otherwise
        return normalised(made.model.clone())  # without what its passes left behind
    except Exception as e:
        raise InputError(f"expected a program that torch.onnx can write, got {reason(e)}") from e


@dataclass(frozen=True)
class Module:
    """A user's module, exported.

    Attributes:
        given: example inputs: positional, or by name.
        program: the export, its first dimension of what has a row per item dynamic.
        names: of the program's inputs, in the order of the example's tensors.
    """

    module: nn.Module
    given: tuple[Any, ...] | dict[str, Any]
    program: torch.export.ExportedProgram
    names: tuple[str, ...]

    @classmethod
    def of(cls, spec: CustomSpec) -> Self:
        """The module of that name.

        Raises:
            InputError: no example inputs, or none that show the number of items; it cannot be exported.
        """
        module = user_module(spec)
        given = _arguments(module, _example(spec, module))
        tensors = list(_tensors(given))
        first = sorted({t.shape[0] if t.ndim else 0 for t in tensors})
        if not tensors or len(set(first) - {1}) != 1 or not first[-1] or 0 in first:
            raise InputError(
                "example inputs: expected tensors whose first dimension is the number of items, two or more, "
                f"or 1 where they belong to the query, got first dimensions {first}"
            )
        n = torch.export.Dim("n")
        shapes = _mapped(given, lambda t: {0: n} if t.shape[0] != 1 else {})
        by_name = isinstance(given, dict)
        try:
            args: Any = ((), given) if by_name else (given, None)
            program = torch.export.export(module, *args, dynamic_shapes=shapes)
        except Exception as e:
            raise InputError(f"expected a module that torch.export can write, got {reason(e)}") from e
        return cls(module, given, program, tuple(program.graph_signature.user_inputs))

    @property
    def weights(self) -> Mapping[str, Tensor]:
        return self.module.state_dict()

    @property
    def most(self) -> dict[str, int]:
        """By input of whole numbers, one more than the largest that the example has."""
        pairs = zip(self.names, _tensors(self.given), strict=True)
        return {n: int(t.max()) + 1 for n, t in pairs if not t.is_floating_point() and t.numel()}

    @torch.inference_mode()
    def scores_as(self, lifted: Lifted) -> bool:
        """Whether the two stages made of it score as the module does, also other numbers of items."""
        stage = GraphStage(lifted.graph)
        for items in _SIZES:
            given = _mapped(self.given, lambda t, n=items: _resized(t, n))
            try:
                found = self.module(**given) if isinstance(given, dict) else self.module(*given)
            except RAISED:
                continue  # one that cannot score so few items itself
            outputs = [t for t in _tensors(found) if t.ndim and len(t) == items]
            wanted = torch.cat([t.reshape(items, -1).float() for t in outputs], 1)
            tensors = {n: t.numpy() for n, t in zip(self.names, _tensors(given), strict=True)}
            scores = stage(**_rows(lifted, self.weights, tensors))
            limit = _TOLERANCE * max(1.0, float(wanted.abs().max()))
            if scores.shape != wanted.shape or not torch.allclose(scores, wanted, rtol=0, atol=limit):
                return False
        return True


def _example(spec: CustomSpec, module: nn.Module) -> Any:
    """Example inputs: of `--example`, of the module, or of the file that it is defined in."""
    if spec.example:
        return weights.read_example(spec.example)
    made_by = getattr(module, EXAMPLES, None) or getattr(import_module(spec.where), EXAMPLES, None)
    if made_by is None:
        raise InputError(
            f"expected example inputs, --example FILE or a function {EXAMPLES}(), or a subclass of "
            "deeprecsys.zoo.custom.OwnModel, which states its inputs; got neither"
        )
    try:
        return made_by()
    except RAISED as e:
        raise InputError(f"{EXAMPLES}: expected tensors, got {reason(e)}") from e


def _arguments(module: nn.Module, example: Any) -> tuple[Any, ...] | dict[str, Any]:
    """How a module is called with an example: its tensors by position or by name, or one dictionary."""
    given = (example,) if isinstance(example, Tensor) else example
    given = tuple(given) if isinstance(given, list) else given
    wrong = not isinstance(given, tuple | dict)
    if wrong or not all(isinstance(t, Tensor) for t in _leaves(given)):
        raise InputError("example inputs: expected a tensor, or tensors in a tuple, a list or a dictionary")
    if isinstance(given, dict):
        try:
            inspect.signature(module.forward).bind(**given)
        except TypeError:
            given = (given,)
    return given


def _leaves(given: Any) -> Iterator[Any]:
    if isinstance(given, dict | tuple | list):
        for each in given.values() if isinstance(given, dict) else given:
            yield from _leaves(each)
    else:
        yield given


def _tensors(given: Any) -> Iterator[Tensor]:
    return (t for t in _leaves(given) if isinstance(t, Tensor))


def _mapped(given: Any, change: Any) -> Any:
    if isinstance(given, dict):
        return {k: _mapped(v, change) for k, v in given.items()}
    if isinstance(given, tuple | list):
        return tuple(_mapped(v, change) for v in given)
    return change(given)


def _resized(t: Tensor, items: int) -> Tensor:
    """An example of so many items, its rows one after the other and again."""
    return t if t.shape[0] == 1 else t[torch.arange(items) % t.shape[0]]


def _rows(
    lifted: Lifted, tables: Mapping[str, Tensor], given: Mapping[str, NDArray[Any]]
) -> dict[str, Tensor]:
    """What the sparse stage gives the dense one of a request's tensors."""
    schema: Schema = lifted.schema
    rows: dict[str, Tensor] = {}
    for i in schema.inputs:
        tensor, feed = schema.source(i.name)
        values = given[tensor.name].reshape(len(given[tensor.name]), -1)[:, feed.columns or slice(None)]
        if not isinstance(i, SparseInput):
            rows[i.name] = torch.from_numpy(values.astype(np.float32))
            continue
        ids = torch.from_numpy(values.astype(np.int64) + np.array([f for f, _ in i.fields] or [0]))
        found = tables[lifted.keys[i.table]].float().reshape(schema.table(i.table).rows, -1)[ids]
        pooled = {Pooling.SUM: lambda x: x.sum(1), Pooling.MEAN: lambda x: x.mean(1)}
        rows[i.name] = pooled.get(i.pooling, lambda x: x)(found)
    return rows

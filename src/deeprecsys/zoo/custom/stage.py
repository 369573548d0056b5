"""A user's dense stage behind the interface that the zoo's have: rows by input name in, scores out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deeprecsys.zoo.custom.model import Own
from deeprecsys.zoo.custom.spec import FileKind, parse
from deeprecsys.zoo.onnx_session import session as onnx_session
from deeprecsys.zoo.schema import Per, Schema

SCORES = "scores"


class OwnDense(nn.Module):
    """Calls the user's stage with one query's rows at a time.

    Slices of several queries are scored one by one, unless nothing is per query and items are scored
    independently: then no item can tell whose neighbour it is.
    """

    def __init__(self, inner: nn.Module, schema: Schema, splittable: bool = True) -> None:
        super().__init__()
        self.inner = inner
        self._per = {i.name: i.per for i in schema.inputs}
        self._outputs = schema.outputs
        self._together = splittable and Per.QUERY not in self._per.values()

    def forward(self, x: Mapping[str, Tensor], slice_of_item: Tensor | None) -> Tensor:
        """Rows by input name -> [n, outputs]."""
        if slice_of_item is None or self._together:
            return self._scores(x)
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

    def forward(self, **x: Tensor) -> Tensor:
        found = self.session.run(None, {name: rows.contiguous().numpy() for name, rows in x.items()})
        return torch.from_numpy(found[0])


def custom_stage(own: Own) -> nn.Module:
    """The dense stage of an own model, its weights in place."""
    if own.kind is FileKind.CLASS:
        from deeprecsys.zoo.custom import python

        spec = parse(own.name)
        inner = python.weighted(spec, python.own_class(spec))
    else:
        inner = GraphStage(own.graph)
    return OwnDense(inner, own.schema, own.splittable).eval()

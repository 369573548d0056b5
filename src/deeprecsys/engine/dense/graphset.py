"""The graphs of one dense stage, as a library has loaded them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from torch import nn

from deeprecsys.engine.dense.graphs import few_items, merges, onnx_model
from deeprecsys.engine.dense.layout import Layout
from deeprecsys.zoo.model import Model

Session = TypeVar("Session")


class GraphSet(Generic[Session]):
    """One graph per kind of batch: of a single slice, of few items of one, of several slices.

    Args:
        load: from a serialised ONNX model to what runs it.
    """

    def __init__(self, model: Model, network: nn.Module, load: Callable[[bytes], Session]) -> None:
        self._few = few_items(network)
        self._many = load(onnx_model(model, network))
        self._small = load(onnx_model(model, network, few=True)) if self._few else self._many
        per_query = Layout.of(model).per_query and merges(network)
        self._merged = load(onnx_model(model, network, merged=True)) if per_query else self._many

    def choose(self, items: int, merged: bool) -> Session:
        if merged:
            return self._merged
        return self._small if items <= self._few else self._many

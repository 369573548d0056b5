"""The dense stages as ONNX graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from torch import nn

from deeprecsys.core.errors import InputError
from deeprecsys.engine.dense.graph import Graph
from deeprecsys.engine.dense.graphs.feedforward import dlrm, mtwnd, mtwnd_artefact, ncf, ncf_artefact, wnd
from deeprecsys.engine.dense.graphs.interest import dien, dien_artefact, din, din_artefact
from deeprecsys.engine.dense.layout import Layout
from deeprecsys.zoo.custom import Own
from deeprecsys.zoo.graph_halves import Halves, halves
from deeprecsys.zoo.model import Model
from deeprecsys.zoo.networks.dlrm import DlrmDense
from deeprecsys.zoo.networks.interest import DienArtefactDense, DienDense, DinArtefactDense, DinDense
from deeprecsys.zoo.networks.ncf import NcfArtefactDense, NcfDense
from deeprecsys.zoo.networks.wnd import MtWndArtefactDense, MtWndDense, WndDense
from deeprecsys.zoo.onnx_session import with_weights
from deeprecsys.zoo.schema import Per

__all__ = ["GraphSet", "block_items", "halves_of", "merges", "onnx_model"]

Loaded = TypeVar("Loaded")

_WRITERS: dict[type[nn.Module], Callable[[Graph, Any], str]] = {
    DlrmDense: dlrm,
    WndDense: wnd,
    MtWndDense: mtwnd,
    MtWndArtefactDense: mtwnd_artefact,
    NcfDense: ncf,
    NcfArtefactDense: ncf_artefact,
    DinDense: din,
    DinArtefactDense: din_artefact,
    DienDense: dien,
    DienArtefactDense: dien_artefact,
}
"""Dense stage -> what writes its nodes and names the scores."""

# Measured at batches of 1024 against blocks of 16 to 512; what is made once per slice is made once per block.
_BLOCKS: dict[type[nn.Module], int] = {DlrmDense: 256, DinDense: 256, DinArtefactDense: 64}
# The most items for which the graph written for few is the faster.
_FEW_ITEMS: dict[type[nn.Module], int] = {DinDense: 96}


def merges(model: Model, network: nn.Module) -> bool:
    """Whether several slices can go through one graph; else the caller loops.

    DIN multiplies with a matrix made of one slice's behaviours, so that its graph of several slices would
    be a loop over them.
    """
    return bool(model.merged) if isinstance(model, Own) else not isinstance(network, DinDense)


def block_items(network: nn.Module) -> int:
    """The most items of a slice that a graph is given at once: what its layers pass on stays cached."""
    return _BLOCKS.get(type(network), 1 << 30)


def onnx_model(model: Model, network: nn.Module, *, merged: bool = False, few: bool = False) -> bytes:
    """A dense stage, its weights drawn, as a serialised ONNX model.

    Inputs are the layout's buffers, and `slice_of_item` [n] int64 if `merged`; the output is `scores`
    [n, outputs].

    Args:
        merged: for batches of several slices rather than of one.
        few: for batches of few items.
    """
    if isinstance(model, Own):
        if not model.graph:
            raise InputError(f"engine compiled: expected a dense stage that torch.onnx can write, "
                             f"got {model.graph_error}; engine eager runs it")  # fmt: skip
        return with_weights(model.merged, model.graph) if merged else model.graph
    graph = Graph(Layout.of(model), merged, few)
    return graph.model(_WRITERS[type(network)](graph, network), model.schema.outputs)


def halves_of(model: Model, network: nn.Module) -> Halves | None:
    """The graph for one slice, cut where everything upstream is per query."""
    users = {b.name for b in Layout.of(model).buffers if b.per is Per.QUERY}
    return halves(onnx_model(model, network), users)


class GraphSet(Generic[Loaded]):
    """A graph for a single slice, few items of one, several slices; `load` takes a serialised one."""

    def __init__(self, model: Model, network: nn.Module, load: Callable[[bytes], Loaded]) -> None:
        self._few = _FEW_ITEMS.get(type(network), 0)
        self._many = load(onnx_model(model, network))
        self._small = load(onnx_model(model, network, few=True)) if self._few else self._many
        per_query = Layout.of(model).per_query and merges(model, network)
        self._merged = load(onnx_model(model, network, merged=True)) if per_query else self._many

    def choose(self, items: int, merged: bool) -> Loaded:
        """The graph for a batch of `items` items, of several slices if `merged`."""
        if merged:
            return self._merged
        return self._small if items <= self._few else self._many

"""Brings a graph into the form in which tables are looked for, whatever wrote it.

Constants become initialisers, tied weights one, float16 and bfloat16 become float32, and what only chooses
rows of an initialiser becomes a Gather.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import (
    InlinePass,
    LiftConstantsToInitializersPass,
    RemoveInitializersFromInputsPass,
)

from deeprecsys.core.errors import InputError
from deeprecsys.plugins import reason

HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_OPSET = 15  # of operators that are added to a graph that has none of the default domain


def read_onnx(path: str) -> ir.Model:
    """An ONNX file in that form. Its weights are read when they are used.

    Raises:
        InputError: it is none.
    """
    try:
        return normalised(ir.load(os.path.abspath(path)))  # a folder, within which external data must lie
    except Exception as e:
        raise InputError(f"expected an ONNX file, got {reason(e)}") from e


def normalised(model: ir.Model) -> ir.Model:
    """The model in that form; it is changed."""
    if model.functions:
        InlinePass()(model)
    for each in (
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        RemoveInitializersFromInputsPass(),
    ):
        each(model)
    model.graph.opset_imports.setdefault("", _OPSET)
    for graph in (model.graph, *model.graph.subgraphs()):
        _widen(graph)
    for node in list(model.graph):
        tied = node.inputs[0] if node.op_type == "Identity" else None
        if tied is not None and tied.is_initializer() and not node.outputs[0].is_graph_output():
            node.outputs[0].replace_all_uses_with(tied)
            model.graph.remove(node, safe=True)
        elif node.op_type == "ZipMap":
            _drop_zip(node)
        elif node.op_type == "GatherND":
            _plain_gather(model.graph, node)
    return model


def values_of(graph: ir.Graph) -> Iterator[ir.Value]:
    """All tensors of a graph and of the graphs within."""
    for g in (graph, *graph.subgraphs()):
        yield from (*g.inputs, *g.initializers.values())
        for node in g:
            yield from node.outputs


def _widen(graph: ir.Graph) -> None:
    """Compute at float32 what a graph computes at float16 or bfloat16, for which CPUs have few operators."""
    for value in (*graph.inputs, *graph.initializers.values(), *(v for n in graph for v in n.outputs)):
        if value.dtype in HALVES:
            value.dtype = ir.DataType.FLOAT
        if value.const_value is not None and value.const_value.dtype in HALVES:
            value.const_value = _wide(value.const_value)
    for node in graph:
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in HALVES:
                node.attributes[name] = ir.AttrTensor(name, _wide(attribute.as_tensor()))
            elif name in ("to", "dtype") and attribute.value in (int(kind) for kind in HALVES):
                node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))


def _wide(tensor: ir.TensorProtocol) -> ir.LazyTensor:
    return ir.LazyTensor(
        lambda: ir.tensor(tensor.numpy().astype(np.float32)),
        ir.DataType.FLOAT,
        ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
    )


def _drop_zip(node: ir.Node) -> None:
    """Give the numbers [n, classes] that a ZipMap would make dictionaries of, under its output's name."""
    numbers, named = node.inputs[0], node.outputs[0]
    assert numbers is not None
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    for k, output in enumerate(graph.outputs):
        if output is named:
            graph.outputs[k] = numbers
            numbers.name = named.name
    named.name = None
    graph.remove(node, safe=False)


def _plain_gather(graph: ir.Graph, node: ir.Node) -> None:
    """Write GatherND of whole rows, `weight[ids]`, as Gather."""
    table, ids = node.inputs
    made_by = ids.producer() if ids is not None else None
    if (
        table is None
        or not table.is_initializer()
        or made_by is None
        or made_by.op_type != "Unsqueeze"
        or node.attributes.get_int("batch_dims", 0) != 0
    ):
        return
    given = made_by.inputs[1] if len(made_by.inputs) > 1 else None
    axes = ir.convenience.get_const_tensor(given) if given is not None else None
    rank = len(ids.shape) if ids is not None and ids.shape is not None else None
    if axes is None or rank is None or axes.numpy().reshape(-1).tolist() not in ([-1], [rank - 1]):
        return
    gather = ir.Node("", "Gather", [table, made_by.inputs[0]])
    graph.insert_before(node, gather)
    node.outputs[0].replace_all_uses_with(gather.outputs[0], replace_graph_outputs=True)
    graph.remove(node, safe=True)

"""Writes an ONNX graph node by node, its weights taken from torch layers.

Written out rather than exported: what is constant is folded here, what belongs to a slice is computed once,
and each product is one node with its bias and activation, which the libraries fuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from deeprecsys.engine.dense.layout import Layout
from deeprecsys.zoo.networks.layers import SplitLayer
from deeprecsys.zoo.schema import SCORES, SLICE_OF_ITEM, Per

OPSET = 18
IR_VERSION = 9


class Graph:
    """An ONNX graph in the making. Values are named by strings; each method adds a node and names its result.

    Args:
        layout: the buffers, which are the graph's inputs. Rows per item are called `n`.
        merged: several slices share the batch: rows per query are called `S`, and `slice_of_item` [n] int64
            is an input. Otherwise there is one row per query.
        few: for batches of few items, where what is made once per slice counts.
    """

    def __init__(self, layout: Layout, merged: bool = False, few: bool = False) -> None:
        self.merged, self.few = merged, few
        self._steps = {b.name: b.steps for b in layout.buffers}
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._ids = count()
        self._inputs = []
        for b in layout.buffers:
            rows: str | int = "n" if b.per is Per.ITEM else "S" if merged else 1
            shape = [rows, *b.shape(1)[1:]]
            self._inputs.append(helper.make_tensor_value_info(b.name, TensorProto.FLOAT, shape))
        if merged:
            self._inputs.append(helper.make_tensor_value_info(SLICE_OF_ITEM, TensorProto.INT64, ["n"]))

    def steps(self, buffer: str) -> int:
        """Length of the sequences in a buffer."""
        return self._steps[buffer]

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of one output."""
        return self.nodes(op, *inputs, outputs=1, **attributes)[0]

    def nodes(self, op: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Add a node of several outputs."""
        names = [f"{op}_{next(self._ids)}" for _ in range(outputs)]
        self._nodes.append(helper.make_node(op, inputs, names, names[0], **attributes))
        return names

    def constant(self, value: Tensor | NDArray[Any] | Sequence[int] | float) -> str:
        """A float32 weight from a tensor, array or number; int64 from a sequence of integers (a shape)."""
        if isinstance(value, Tensor):
            value = value.detach().numpy()
        kind = np.int64 if isinstance(value, Sequence) else np.float32
        array = np.ascontiguousarray(value, kind).reshape(np.shape(value))
        name = f"constant_{next(self._ids)}"
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def gemm(self, x: str, weight: Tensor, add: str | Tensor | None = None) -> str:
        """x [n, inputs] times weight [outputs, inputs] transposed, plus `add`: a value or a bias."""
        if isinstance(add, Tensor):
            add = self.constant(add)
        return self.node("Gemm", x, self.constant(weight.t()), *([] if add is None else [add]))

    def linear(self, x: str, layer: nn.Linear) -> str:
        """A fully connected layer."""
        return self.gemm(x, layer.weight, layer.bias)

    def split_layer(self, layer: SplitLayer, user: str, item: str) -> str:
        """A layer over [user, item] columns, the user's product once per slice.

        [S, user], [n, item] -> [n, outputs].
        """
        once = self.gemm(user, layer.weight[:, : layer.user], layer.bias)
        return self.gemm(item, layer.weight[:, layer.user :], self.spread(once))

    def chain(self, x: str, layers: nn.Sequential) -> str:
        """Fully connected layers and their activations."""
        for layer in layers:
            x = self.layer(x, layer)
        return x

    def layer(self, x: str, layer: nn.Module) -> str:
        """A fully connected layer or an activation."""
        match layer:
            case nn.Linear():
                return self.linear(x, layer)
            case nn.PReLU():
                return self.prelu(x, layer)
            case nn.ReLU():
                return self.node("Relu", x)
            case nn.Sigmoid():
                return self.node("Sigmoid", x)
            case nn.Identity():
                return x
        raise TypeError(f"no ONNX node for {type(layer).__name__}")

    def prelu(self, x: str, act: nn.PReLU) -> str:
        """PReLU with one slope, which is a leaky ReLU."""
        assert act.weight.numel() == 1
        return self.node("LeakyRelu", x, alpha=act.weight.item())

    def concat(self, *parts: str) -> str:
        """[n, ...] side by side."""
        return self.node("Concat", *parts, axis=1)

    def reshape(self, x: str, *shape: int) -> str:
        return self.node("Reshape", x, self.constant(list(shape)))

    def spread(self, x: str) -> str:
        """Each item's row of a per-slice value: [S, ...] -> [n, ...]; for one slice the row, to broadcast."""
        return self.node("Gather", x, SLICE_OF_ITEM, axis=0) if self.merged else x

    def model(self, scores: str, outputs: int) -> bytes:
        """The finished model, whose result `scores` [n, outputs] is `scores`."""
        self._nodes.append(helper.make_node("Identity", [scores], [SCORES]))
        out = helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, ["n", outputs])
        graph = helper.make_graph(self._nodes, "dense", self._inputs, [out], self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model)
        data: bytes = model.SerializeToString()
        return data

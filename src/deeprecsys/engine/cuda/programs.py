"""What the device runs for one bucket: gathers and dense stage, captured in a graph where there is CUDA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deeprecsys.engine.cuda.gather import DeviceGather, gather_of
from deeprecsys.engine.cuda.layout import ALIGN_WORDS, DeviceBlock, FieldPlace, StagingArena, blocks_of
from deeprecsys.engine.cuda.queues import CudaQueues, Queues
from deeprecsys.engine.cuda.tables import DeviceTables
from deeprecsys.zoo.schema import DenseInput, Pooling, Schema

FLAG, SCORES = 0, ALIGN_WORDS
"""Words of the output arena: whether an id was outside its table, and where the scores begin."""
WARM_UPS = 2


@dataclass(frozen=True, eq=False)
class Network:
    """A model on a device.

    Attributes:
        blocks, vectors: its inputs, in the order of the arenas' places.
        dtype: of all that is computed.
    """

    blocks: tuple[DeviceBlock, ...]
    vectors: tuple[DenseInput, ...]
    gathers: tuple[DeviceGather, ...]
    dense: nn.Module
    dtype: torch.dtype
    outputs: int

    @classmethod
    def of(cls, schema: Schema, tables: DeviceTables, dense: nn.Module, dtype: torch.dtype) -> Network:
        blocks = blocks_of(schema)
        return cls(
            blocks=blocks,
            vectors=schema.dense,
            gathers=tuple(gather_of(b, tables) for b in blocks),
            dense=dense,
            dtype=dtype,
            outputs=schema.outputs,
        )

    def forward(self, arena: StagingArena, words: Tensor, out: Tensor) -> None:
        """Score what lies in `words` by the arena's places; flag and scores go to `out`. No host sync."""
        flag = out[FLAG : FLAG + 1]
        flag.zero_()
        x: dict[str, Tensor] = {}
        for block, gather, place in zip(self.blocks, self.gathers, arena.blocks, strict=True):
            found = gather(_at(words, place), flag, self.dtype)
            if block.pooling is Pooling.CONCAT:
                found = found.flatten(2)
            x |= zip(block.names, found.unbind(0), strict=True)
        floats = words.view(torch.float32)
        for vector, place in zip(self.vectors, arena.vectors, strict=True):
            x[vector.name] = _at(floats, place).to(self.dtype)
        slice_of_item = _at(words, arena.slice_of_item) if arena.slice_of_item else None
        scores = self.dense(x, slice_of_item)
        scores_of(out, arena.items, self.outputs).copy_(scores)


def scores_of(out: Tensor, items: int, outputs: int) -> Tensor:
    """[items, outputs] float32 in an output arena."""
    return out.view(torch.float32)[SCORES : SCORES + items * outputs].view(items, outputs)


def _at(words: Tensor, place: FieldPlace) -> Tensor:
    return words[place.word : place.word + place.words].view(place.shape)


def program(
    network: Network, arena: StagingArena, words: Tensor, out: Tensor, queues: Queues, pool: Any
) -> Callable[[], object]:
    """Runs the network on one bucket; to be called within the queue `compute`.

    On CUDA a graph is captured: a launch then costs the same however many kernels there are. Graphs of one
    pool share its memory, which is safe as they run one after the other and leave their results in `out`.
    """

    @torch.inference_mode()
    def run() -> None:
        network.forward(arena, words, out)

    if not isinstance(queues, CudaQueues):
        return run
    stream = queues.streams["compute"]
    with queues.on("compute"):
        for _ in range(WARM_UPS):
            run()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=stream):
        run()
    return graph.replay

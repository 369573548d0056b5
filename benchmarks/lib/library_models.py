"""Models of public libraries, with random weights, and examples of what they read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Example = tuple[Tensor | dict[str, Tensor]]
ROWS = (100, 57, 1000, 23)
"""Rows of the tables of plain features."""
HISTORY, NUMBERS, DIM = 5, 3, 8


def library_models(library: str, items: int) -> Iterator[tuple[str, nn.Module, Example]]:
    """Name, module and an input of so many items of each model."""
    for name, made, example in {"deepctr-torch": _deepctr, "torch-rechub": _rechub}[library](items):
        module = made.eval().requires_grad_(False)
        torch.manual_seed(0)
        for weights in module.parameters():
            nn.init.normal_(weights, std=0.3)
        yield name, module, example


def export(module: nn.Module, example: Example, path: Path) -> None:
    """Write a module as `.pt2` or `.onnx`, by the suffix, its first dimension dynamic."""
    n = torch.export.Dim("n")
    shapes = tuple({k: {0: n} for k in x} if isinstance(x, dict) else {0: n} for x in example)
    program = torch.export.export(module, example, dynamic_shapes=shapes)
    if path.suffix == ".pt2":
        torch.export.save(program, path)
    else:
        made = torch.onnx.export(program, dynamo=True, verbose=False)
        assert made is not None
        made.save(path)


def _deepctr(items: int) -> Iterator[tuple[str, Any, Example]]:
    from deepctr_torch import models as m
    from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat

    plain = [
        *(SparseFeat(f"c{k}", n, embedding_dim=DIM) for k, n in enumerate(ROWS)),
        *(DenseFeat(f"d{k}", 1) for k in range(NUMBERS)),
    ]
    history = VarLenSparseFeat(SparseFeat("seen", 50, embedding_dim=DIM), maxlen=HISTORY, combiner="mean")
    rng = np.random.default_rng(items)
    columns = [rng.integers(0, n, (items, 1)) for n in ROWS] + [rng.standard_normal((items, NUMBERS))]
    seen = rng.integers(1, 50, (items, HISTORY))
    seen[np.arange(HISTORY) >= rng.integers(1, HISTORY + 1, (items, 1))] = 0  # of variable length
    x, longer = (
        torch.from_numpy(np.concatenate(c, 1).astype(np.float32)) for c in (columns, [*columns, seen])
    )
    how = {"dnn_hidden_units": (32, 16), "task": "binary", "device": "cpu"}
    yield "WDL", m.WDL(plain, plain, **how), (x,)
    yield "DeepFM", m.DeepFM(plain, plain, **how), (x,)
    yield "DCN", m.DCN(plain, plain, **how), (x,)
    yield "xDeepFM", m.xDeepFM(plain, plain, cin_layer_size=(16, 16), **how), (x,)
    yield "AutoInt", m.AutoInt(plain, plain, **how), (x,)
    with_history = [*plain, history]
    yield "DeepFM, variable length", m.DeepFM(with_history, with_history, **how), (longer,)


def _rechub(items: int) -> Iterator[tuple[str, Any, Example]]:
    from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature
    from torch_rechub.models import multi_task, ranking

    sparse = [SparseFeature(f"c{k}", n, embed_dim=DIM) for k, n in enumerate(ROWS)]
    dense = [DenseFeature(f"d{k}") for k in range(NUMBERS)]
    seen = SequenceFeature("seen", ROWS[2], embed_dim=DIM, pooling="concat", shared_with="c2")
    rng, every = np.random.default_rng(items), [*dense, *sparse]
    ids = {f.name: torch.from_numpy(rng.integers(0, n, items)) for f, n in zip(sparse, ROWS, strict=True)}
    x = {f.name: torch.from_numpy(rng.standard_normal(items).astype(np.float32)) for f in dense} | ids
    mlp, towers = {"dims": [32, 16], "dropout": 0.1, "activation": "relu"}, [{"dims": [8]}] * 2
    yield "WideDeep", ranking.WideDeep(dense, sparse, mlp), (x,)
    yield "DeepFM", ranking.DeepFM(every, sparse, mlp), (x,)
    yield "DCNv2", ranking.DCNv2(every, 2, mlp), (x,)
    yield (
        "MMOE",
        multi_task.MMOE(every, ["classification"] * 2, 3, {"dims": [16]}, [dict(t) for t in towers]),
        (x,),
    )
    history = torch.from_numpy(rng.integers(0, ROWS[2], (items, HISTORY)))
    yield (
        "DIN",
        ranking.DIN(sparse[:2], [seen], [sparse[2]], {"dims": [32]}, {"dims": [16]}),
        ({**{f.name: ids[f.name] for f in sparse[:3]}, "seen": history},),
    )

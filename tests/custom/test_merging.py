"""A user's model with inputs per query, scored with other queries in one batch: the scores are as alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deeprecsys.engine import SliceView, build
from deeprecsys.zoo.custom import Own
from deeprecsys.zoo.custom.describe import describe
from tests.custom.test_describe import MAX_ITEMS, assembly, direct

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.export's own

DIM, HISTORY = 8, 6


class Ranker(nn.Module):
    """The user's id, history and numbers per query, an item's id and numbers; a score for each way to use
    them."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.goods = nn.Embedding(40, DIM), nn.Embedding(60, DIM)
        self.top = nn.Sequential(nn.Linear(3 * DIM + 3 + 2, 16), nn.ReLU(), nn.Linear(16, 1))
        self.u, self.i = nn.Linear(2 * DIM + 3, DIM), nn.Linear(DIM + 2, DIM)
        self.unit = nn.Sequential(nn.Linear(4 * DIM, 8), nn.ReLU(), nn.Linear(8, 1))
        self.gru = nn.GRU(DIM, DIM, batch_first=True)
        self.attention = nn.MultiheadAttention(DIM, 2, batch_first=True)

    def forward(self, user: Tensor, history: Tensor, about: Tensor, item: Tensor, price: Tensor) -> Tensor:
        """[1, 1], [1, HISTORY], [1, 3] of the query, [n, 1], [n, 2] -> [n, scores]."""
        rows = (self.users(user)[:, 0], self.goods(history), about, self.goods(item)[:, 0], price)
        return torch.sigmoid(torch.cat(self.scores(*rows), 1))

    def scores(self, user, history, about, item, price):
        n, h = item.shape[0], history[0]
        u = self.u(torch.cat([user, history.mean(1), about], 1))
        i = self.i(torch.cat([item, price], 1))

        def top(seen):
            return self.top(torch.cat([torch.cat([user, seen, about], 1).expand(n, -1), item, price], 1))

        repeated = torch.cat([user, history.amax(1), about], 1).repeat(n, 1)
        chosen = torch.cat([user, about], 1).expand(n, -1)
        attended = (item @ h.T).softmax(1) @ h
        seen, mine = history.expand(n, -1, -1), item[:, None].expand(-1, HISTORY, -1)
        weights = self.unit(torch.cat([seen, mine, seen - mine, seen * mine], 2)).softmax(1)
        found = [
            top(history.mean(1)),
            self.top(torch.cat([item, repeated, price], 1)),
            i @ u.T,
            (i @ u[0])[:, None],
            (u * i).sum(1, keepdim=True),
            self.top(torch.cat([chosen, attended, item, price], 1)),
            self.top(torch.cat([chosen, (weights * seen).sum(1), item, price], 1)),
        ]
        return found + [top(seen) for seen in self.encoded(history)]

    def encoded(self, history):
        attended = self.attention(history, history, history, need_weights=False)[0]
        return [self.gru(history)[1][0], attended.mean(1)]


class WithoutLayers(Ranker):
    """What the older exporter can write."""

    def encoded(self, history):
        return [history.amax(1)]


class Transposed(Ranker):
    """Its items are columns for a while: no rule holds for that."""

    def scores(self, user, history, about, item, price):
        u = self.u(torch.cat([user, history.mean(1), about], 1))
        return [(u @ self.i(torch.cat([item, price], 1)).T).reshape(-1, 1)]


INPUTS = ["user", "history", "about", "item", "price"]


def written(module: nn.Module, form: str, folder: Path) -> Own:
    torch.manual_seed(0)
    n = torch.export.Dim("n")
    example = (
        torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, HISTORY, dtype=torch.long), torch.zeros(1, 3),
        torch.zeros(5, 1, dtype=torch.long), torch.zeros(5, 2),
    )  # fmt: skip
    shapes = ({}, {}, {}, {0: n}, {0: n})
    path = folder / f"ranker.{form.partition('-')[0]}"
    if form == "pt2":
        torch.export.save(torch.export.export(module, example, dynamic_shapes=shapes), path)
    elif form == "onnx":
        torch.onnx.export(module, example, path, dynamo=True, dynamic_shapes=shapes, input_names=INPUTS,
                          verbose=False)  # fmt: skip
    else:
        axes = {"item": {0: "n"}, "price": {0: "n"}}
        torch.onnx.export(module, example, path, dynamo=False, dynamic_axes=axes, input_names=INPUTS)
    return describe(str(path))


def check(own: Own, module: nn.Module, engine: str) -> None:
    """Whole, merged, cut and both, against the user's module."""
    about, layout = assembly(own)
    runs = build(engine, about)
    sizes = (1, MAX_ITEMS, 7, 1, 40)
    outs = [np.full((n, own.schema.outputs), np.nan, np.float32) for n in sizes]
    whole = [SliceView(layout.rows_at(q), 0, len(o), o) for q, o in enumerate(outs)]
    halves = [
        s._replace(start=a, stop=b, out=s.out[a:b])
        for s in whole for a, b in ((0, s.stop // 2), (s.stop // 2, s.stop)) if a < b
    ]  # fmt: skip
    wanted = [direct(module, about, s.first, s.stop) for s in whole]
    for batches in ([[s] for s in whole], [whole], [halves], [halves[::-1]], [[s] for s in halves]):
        for out in outs:
            out[...] = np.nan
        for batch in batches:
            runs.score(batch)
        for got, expected in zip(outs, wanted, strict=True):
            np.testing.assert_allclose(got, expected, atol=2e-5)
    assert np.ptp(np.concatenate(wanted)) > 1e-3


@pytest.mark.parametrize("form", ["onnx", "onnx-torchscript", "pt2"])
def test_merged_queries_score_as_alone(form: str, tmp_path: Path) -> None:
    module = (WithoutLayers if form == "onnx-torchscript" else Ranker)().eval().requires_grad_(False)
    own = written(module, form, tmp_path)
    assert own.merged
    assert len(own.merged) < len(own.graph)  # weights are kept once
    check(own, module, "eager" if form == "pt2" else "compiled")


def test_a_graph_without_a_rule_is_scored_slice_by_slice(tmp_path: Path) -> None:
    module = Transposed().eval().requires_grad_(False)
    own = written(module, "onnx", tmp_path)
    assert not own.merged
    check(own, module, "compiled")

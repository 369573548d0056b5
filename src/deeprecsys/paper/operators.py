"""Where a batch's time goes, operator by operator, measured: eager torch, one thread, this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from deeprecsys.paper.operator_timer import OperatorCall, OperatorTimer
from deeprecsys.zoo import model as model_of
from deeprecsys.zoo.networks import weighted
from deeprecsys.zoo.networks.sparse import SparseStage
from deeprecsys.zoo.schema import Per, SparseInput

KINDS: Mapping[str, tuple[str, ...]] = {
    "embedding": ("embedding", "index_select", "gather"),
    "softmax": ("softmax",),
    "concat": ("cat", "stack"),
    "fc": ("addmm", "mm", "linear", "bmm", "baddbmm", "relu", "sigmoid", "matmul"),
}
"""Kind → what its operators' names contain; the first that fits. What recurrent layers run is "recurrent"."""
BATCH = 64
_ROWS_SCALE = {"dlrm-rmc1": 0.05, "dlrm-rmc2": 0.1, "dlrm-rmc3": 0.2, "din": 0.05}

Inputs = dict[str, torch.Tensor]


class EagerModel:
    """A model of the zoo on eager torch and one thread, with tables of its own.

    Args:
        scale: of the tables' rows.
        seed: of weights and inputs.
    """

    def __init__(self, name: str, scale: float = 1.0, seed: int = 0) -> None:
        torch.set_num_threads(1)
        self._model = model_of(name).scaled(scale)
        self._rng = np.random.default_rng(seed)
        tables = {t.name: torch.ones(t.rows, t.dim) for t in self._model.schema.tables}
        self._sparse = SparseStage(self._model.schema, tables)
        self._ids = {i.name for i in self._model.schema.sparse}
        self.dense = weighted(self._model, seed)

    def inputs(self, items: int) -> Inputs:
        """Inputs of one batch, ids evenly drawn."""
        found = {}
        for i in self._model.schema.inputs:
            rows = items if i.per is Per.ITEM else 1
            if isinstance(i, SparseInput):
                top = self._model.schema.table(i.table).rows
                ids = self._rng.integers(0, top, (rows, i.lookups), dtype=np.int32)
                found[i.name] = torch.from_numpy(ids)
            else:
                found[i.name] = torch.from_numpy(self._rng.random((rows, i.width), dtype=np.float32))
        return found

    @torch.inference_mode()
    def score(self, x: Inputs) -> Any:
        pooled = self._sparse({n: x[n] for n in self._ids})
        return self.dense(pooled | {n: v for n, v in x.items() if n not in self._ids}, None)


def kind_of(call: OperatorCall) -> str:
    """One of `KINDS`, or "recurrent", or "other"."""
    name = call.name.removeprefix("aten.").lower()
    known = (k for k, parts in KINDS.items() if any(p in name for p in parts))
    return "recurrent" if call.recurrent else next(known, "other")


def shares(name: str, *, rounds: int = 5, batch: int = BATCH, seed: int = 0) -> dict[str, float]:
    """Share of the run time by kind of operator, at a batch size.

    Tables are scaled to some hundred megabytes, many times what caches hold. Time is taken around each of
    torch's operators; what it does between them, some microseconds a piece, is not counted.
    """
    model = EagerModel(name, _ROWS_SCALE.get(name.removesuffix("-artefact"), 0.3), seed)
    batches = [model.inputs(batch) for _ in range(rounds + 1)]
    timer = OperatorTimer(model.dense)
    model.score(batches[0])
    with timer:
        for x in batches[1:]:
            model.score(x)
    spent: dict[str, float] = {}
    for call in timer.calls:
        spent[kind_of(call)] = spent.get(kind_of(call), 0.0) + call.seconds
    total = sum(spent.values())
    return {k: v / total for k, v in sorted(spent.items(), key=lambda p: -p[1])}

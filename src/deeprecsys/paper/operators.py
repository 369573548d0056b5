"""Where a batch's time goes, operator by operator, measured: eager torch, one thread, this machine."""

from __future__ import annotations

from collections.abc import Mapping

from deeprecsys.zoo import model as model_of
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


def shares(name: str, *, rounds: int = 5, batch: int = BATCH, seed: int = 0) -> dict[str, float]:
    """Share of the run time by kind of operator, at a batch size.

    Tables are scaled to some hundred megabytes, many times what caches hold. Time is taken around each of
    torch's operators; what it does between them, some microseconds a piece, is not counted.
    """
    import numpy as np
    import torch

    from deeprecsys.paper.operator_timer import OperatorTimer
    from deeprecsys.zoo.networks import weighted
    from deeprecsys.zoo.networks.sparse import SparseStage

    torch.set_num_threads(1)
    model = model_of(name).scaled(_ROWS_SCALE.get(name.removesuffix("-artefact"), 0.3))
    rng = np.random.default_rng(seed)
    tables = {t.name: torch.ones(t.rows, t.dim) for t in model.schema.tables}
    sparse, dense = SparseStage(model.schema, tables), weighted(model, seed)

    def inputs() -> dict[str, torch.Tensor]:
        found = {}
        for i in model.schema.inputs:
            rows = batch if i.per is Per.ITEM else 1
            if isinstance(i, SparseInput):
                top = model.schema.table(i.table).rows
                ids = rng.integers(0, top, (rows, i.lookups), dtype=np.int32)
                found[i.name] = torch.from_numpy(ids)
            else:
                found[i.name] = torch.from_numpy(rng.random((rows, i.width), dtype=np.float32))
        return found

    names = {i.name for i in model.schema.sparse}
    batches = [inputs() for _ in range(rounds + 1)]

    def score(x: dict[str, torch.Tensor]) -> None:
        pooled = sparse({n: x[n] for n in names})
        dense(pooled | {n: v for n, v in x.items() if n not in names}, None)

    timer = OperatorTimer(dense)
    with torch.inference_mode():
        score(batches[0])
        with timer:
            for x in batches[1:]:
                score(x)
    spent: dict[str, float] = {}
    for (operator, recurrent), seconds in timer.spent_s.items():
        name = operator.removeprefix("aten.").lower()
        known = (k for k, parts in KINDS.items() if any(p in name for p in parts))
        kind = "recurrent" if recurrent else next(known, "other")
        spent[kind] = spent.get(kind, 0.0) + seconds
    total = sum(spent.values())
    return {k: v / total for k, v in sorted(spent.items(), key=lambda p: -p[1])}

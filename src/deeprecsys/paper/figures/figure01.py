"""Figure 1: operational intensity and memory of recommendation models against other networks."""

from __future__ import annotations

from deeprecsys.paper import charts
from deeprecsys.paper.networks import bert_base, lstm, resnet50
from deeprecsys.paper.platforms import Work, work_of
from deeprecsys.paper.published import CLASS, MODELS, SHORT
from deeprecsys.paper.result import Claim, Illustration, Result, TextTable, seen
from deeprecsys.paper.study import Study
from deeprecsys.report import format as f
from deeprecsys.zoo import MODELS as ZOO

BATCHES = (1, 64)


def intensity(work: Work, batch: int) -> float:
    """FLOPs per byte of weights and embedding rows read."""
    return work.flops(batch) / (work.weight_bytes + work.gathered_bytes(batch))


def make(study: Study) -> Result:
    works = {m: work_of(ZOO[m]) for m in MODELS}
    others = [resnet50(), bert_base(), lstm()]
    ours = {m: (intensity(w, 1), intensity(w, 64), w.table_bytes + w.weight_bytes) for m, w in works.items()}
    rest = {c.name: (c.intensity(1), c.intensity(64), c.memory_bytes) for c in others}
    points = {
        "recommendation": [(SHORT[m], i64, mem / 1e9) for m, (_, i64, mem) in ours.items()],
        "other networks": [(n.split(",")[0], i64, mem / 1e9) for n, (_, i64, mem) in rest.items()],
    }
    flops = {m: w.flops(1) for m, w in works.items()} | {c.name: c.flops for c in others}
    rows = tuple(
        (SHORT.get(n, n), f.magnitude(flops[n]), f.figure(i1), f.figure(i64), f.size(mem))
        for n, (i1, i64, mem) in (ours | rest).items()
    )
    embedding = [ours[m][1] for m in MODELS if CLASS[m] == "embedding"]
    dense = min(rest[c.name][1] for c in others[:2])
    most_memory = max(c.memory_bytes for c in others)
    least_memory = min(ours[m][2] for m in MODELS if m != "ncf")
    claims = (
        Claim("embedding models read far more per operation than ResNet-50 and BERT do", "orders of magnitude",
              f"{f.figure(dense / max(embedding))}× to {f.figure(dense / min(embedding))}× at batch 64",
              seen(dense / max(embedding) > 10), "rows are read once each, weights once per batch"),
        Claim("recommendation models need gigabytes, the others some hundred megabytes", "GBs against 100s of MB",
              f"{f.size(least_memory)} and more (NCF {f.size(ours['ncf'][2])}) against at most {f.size(most_memory)}",
              seen(least_memory > most_memory), "NCF's tables are those of a public data set"),
    )  # fmt: skip
    data = {n: {"intensity": {"1": a, "64": b}, "bytes": c} for n, (a, b, c) in (ours | rest).items()}
    plot = charts.scatter(points, "FLOPs per byte read, batch 64", "parameters, GB")
    header = ("network", "FLOPs per input", "FLOPs/byte, batch 1", "batch 64", "parameters")
    return Result(
        1, "Operational intensity and memory", "counted from layers", claims,
        (Illustration("intensity", "Eight models and three others", "weights are read once per batch", plot),),
        (TextTable(header, rows, title="Counted from layers"),), data,
    )  # fmt: skip

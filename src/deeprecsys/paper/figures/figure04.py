"""Figure 4: speed-up of the accelerator over one CPU core against batch size."""

from __future__ import annotations

import numpy as np

from deeprecsys.paper import charts
from deeprecsys.paper.platforms import SKYLAKE, batch_time, gtx_roofline, work_of
from deeprecsys.paper.published import MODELS, SHORT
from deeprecsys.paper.result import Claim, Illustration, Result, TextTable, seen
from deeprecsys.paper.study import Study
from deeprecsys.report import format as f
from deeprecsys.simulate.published import GTX_1080_TI
from deeprecsys.zoo import MODELS as ZOO

BATCHES, SPEED_UP = GTX_1080_TI.batches, GTX_1080_TI.speed_up


def make(study: Study) -> Result:
    works = {m: work_of(ZOO[m]) for m in MODELS}
    ours = {
        m: [batch_time(SKYLAKE, w, b).total / gtx_roofline(w, b) for b in BATCHES] for m, w in works.items()
    }
    rows = tuple(
        (SHORT[m], *(f"{p:.2f} / {o:.2f}" for p, o in zip(SPEED_UP[m], ours[m], strict=True))) for m in MODELS
    )
    grows = sum(SPEED_UP[m][-1] > SPEED_UP[m][0] for m in MODELS), sum(o[-1] > o[0] for o in ours.values())
    crossing = {m: (_crossing(SPEED_UP[m]), _crossing(ours[m])) for m in MODELS}
    apart = float(np.exp(np.mean([np.log(o[-1] / SPEED_UP[m][-1]) for m, o in ours.items()])))
    near = float(np.exp(np.mean([np.log(o[2] / SPEED_UP[m][2]) for m, o in ours.items()])))
    small = sum(a is None or a >= 4 for _, a in crossing.values())
    claims = (
        Claim("the speed-up grows with the batch", f"{grows[0]} of 8 models", f"{grows[1]} of 8 models",
              seen(grows[1] == 8), "transfers and launches are spread over more items"),
        Claim("a core is quicker at small batches", "all 8 at batch 1",
              f"{small} of 8 below batch 4", seen(small >= 7), "launches: the card pays one per operator"),
        Claim("its size at batch 16", "0.4 to 1.8", f"{near:.2f}× the published, geometric mean",
              seen(0.5 <= near <= 2.0), "data sheets alone, nothing fitted"),
        Claim("its size at batch 1024", "1.1 to 4.6", f"{apart:.1f}× the published, geometric mean",
              seen(0.5 <= apart <= 2.0),
              "the data sheets' card is far quicker than the published one: that time is spent neither in products "
              "nor on the bus, but in preparing and moving inputs on the host"),
    )  # fmt: skip
    pick = ("wnd", "dlrm-rmc1", "dlrm-rmc3", "din")
    series, model = ({SHORT[m]: (BATCHES, by[m]) for m in pick} for by in (SPEED_UP, ours))
    header = ("published / data sheets", *(str(b) for b in BATCHES))
    return Result(
        4, "Accelerator against one core", "published speed-ups; beside them a roofline of data sheets over the "
        "modelled Skylake", claims,
        (
            Illustration("published", "Published", "input transfer included",
                    charts.lines(series, "batch size, items", "speed-up", log_y=True, level=1.0)),
            Illustration("roofline", "Data sheets", "GTX 1080 Ti over the modelled Skylake core",
                    charts.lines(model, "batch size, items", "speed-up", log_y=True, level=1.0)),
        ),
        (TextTable(header, rows, title="Speed-up over one core"),
         TextTable(("model", "published", "data sheets"), tuple((SHORT[m], f.count(a) if a else "never", f.count(b) if b else "never")
                     for m, (a, b) in crossing.items()), title="Batch from which the card is quicker")),
        {"published": {m: list(v) for m, v in SPEED_UP.items()}, "roofline": ours,
         "batches": list(BATCHES)},
    )  # fmt: skip


def _crossing(speed_ups: tuple[float, ...] | list[float]) -> int | None:
    """The least of the published batch sizes at which the card is quicker."""
    return next((b for b, s in zip(BATCHES, speed_ups, strict=True) if s > 1), None)

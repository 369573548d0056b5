"""What a reader must know before believing a result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from deeprecsys.core.profile import FAR
from deeprecsys.core.runlog import DISTURBED_SHARE
from deeprecsys.engine.spec import EngineSpec
from deeprecsys.machine.record import same_machine
from deeprecsys.report import format as f

HUGE_PAGES = 0.9
"""With less than this share of the tables on huge pages, gathers are slower than they could be."""

Document = Mapping[str, Any]


def warnings(doc: Document) -> list[str]:
    """One sentence for each thing that limits what the figures of a result mean."""
    found = [str(w) for w in doc.get("warnings") or []]
    return list(dict.fromkeys([*found, *_load(doc), *_points(doc), *_order(doc), *_setup(doc)]))


def simulated(doc: Document) -> bool:
    """Whether all figures of a result come from virtual time."""
    return doc.get("simulated") is True


def _load(doc: Document) -> Iterator[str]:
    if doc.get("void"):
        late = f.ms(doc.get("lateness_p99_ms"))
        yield f"void: the load source was late (p99 {late} ms), so the load was not the one asked for"
    stalled = f.number(doc.get("stalled_share"))
    if stalled is not None and stalled > DISTURBED_SHARE:
        yield f"the machine stood still: batches were held up for {f.share(stalled)} of the workers' time"
    voids = max(
        (f.number(_object(doc.get(k)).get("voids")) or 0 for k in ("search", "confirmation")), default=0
    )
    if voids:
        trials = "1 void trial was" if voids == 1 else f"{voids:.0f} void trials were"
        yield f"{trials} repeated: the load source was late, or the machine stood still or was slow"
    if _object(doc.get("search")).get("complete") is False:
        yield "the search ended with its budget, before every candidate was tried"
    if doc.get("resolved") is False:
        yield "the budget ended the search before the interval was as narrow as asked"


def _points(doc: Document) -> Iterator[str]:
    for role, point in (("", doc), *((r, _object(doc.get(r))) for r in ("static", "tuned"))):
        name = f"{role}: " if role else ""
        served = f.number(point.get("served"))
        if served is not None and served < 1:
            yield f"{name}only {f.share(served)} of the offered queries were served"
        if point.get("met") is False:
            yield f"{name}no rate that was tried met the target when it was confirmed"


def _order(doc: Document) -> Iterator[str]:
    """Figures that cannot all be true: something else used the machine while one of them was measured."""
    tuned = f.number(_object(doc.get("tuned")).get("qps"))
    offline = f.number(doc.get("offline_qps"))
    if tuned is not None and offline is not None and tuned > offline:
        yield "the offline rate is below the tuned one: the machine was disturbed while one was measured"
    part = f.number(_object(doc.get("fraction_of_bound")).get("value"))
    if part is not None and part > 1:
        yield "the tuned rate is above its bound: under this load batches took less time than in the profile"
    pace = f.number(doc.get("pace"))
    if pace is not None and not 1 / FAR < pace < FAR:
        yield (
            f"batches took {f.figure(pace)} times what the profile says while the tuned point was confirmed: "
            "it was chosen for another speed of the machine"
        )


def _setup(doc: Document) -> Iterator[str]:
    node, profile = _object(doc.get("node")), _object(doc.get("profile"))
    engine = str(doc.get("engine") or node.get("engine") or "")
    scorer = EngineSpec.recorded(engine)
    if not scorer.scores and not scorer.emulated:
        yield f"engine {engine} scores nothing: the figures are of the node, not of a model"
    if any(_object(d).get("emulated") for d in (doc, node, doc.get("tuned"))) or scorer.emulated:
        name = _object(doc.get("gpu")).get("device")
        title = f"the accelerator is emulated{f' ({name})' if name else ''}"
        yield f"{title}: its batch times come from a profile, and what ran on it has no scores"
    if simulated(doc):
        yield "simulated: a prediction in virtual time from a latency profile, not a measurement"
    here, there = _object(doc.get("machine")), _object(profile.get("machine"))
    if here and there and not simulated(doc) and not same_machine(dict(here), dict(there)):
        yield f"the latency profile was measured on another machine ({there.get('cpu', f.UNAVAILABLE)})"
    huge = f.number(node.get("huge_page_fraction"))
    if huge is not None and huge < HUGE_PAGES:
        yield f"only {f.share(huge)} of the embedding tables lie on huge pages: gathers are slower for it"
    if node.get("dispatcher") == "normal priority":
        yield "the dispatcher ran at normal priority: SCHED_FIFO is not permitted here"


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}

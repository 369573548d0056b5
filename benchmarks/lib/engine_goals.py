"""What the engine is held to, each goal beside what was measured: met or not met, and why not where it is known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from statistics import geometric_mean
from typing import Any, NamedTuple

from benchmarks.harness import markdown
from benchmarks.lib.engine_tables import BEST, GOALS

SPARSE_MODELS, DENSE_MODELS = ("dlrm-rmc1", "dlrm-rmc2"), ("wnd", "mt-wnd", "dlrm-rmc3")
FROM_SPARSE, FROM_DENSE, FROM_WHOLE = 64, 16, 64
"""The least batch that a goal is for."""
CALL_US, GAIN = 40.0, 2.0


class Verdict(NamedTuple):
    """One goal.

    Attributes:
        goal: in words.
        wanted: the figure that is asked for.
        found: by place ("dlrm-rmc1, b = 64"), what was measured.
        less: smaller is better.
        reason: why it cannot be met here, where that is known.
    """

    goal: str
    wanted: float
    found: Mapping[str, float]
    less: bool = False
    reason: str = ""

    def missed(self) -> list[str]:
        """The places that fall short."""
        sign = -1 if self.less else 1
        return [place for place, x in self.found.items() if not sign * x >= sign * self.wanted]


def verdicts(gather: Mapping[str, Any], dense: Mapping[str, Any], engine: Mapping[str, Any]) -> list[Verdict]:
    """The verdicts on the results that there are."""
    models = engine.get("models", {})
    found = [*_sparse(gather.get("models", {})), *_dense(dense), *_whole(models), *_gains(models)]
    return [v for v in found if v.found]


def _sparse(models: Mapping[str, Any]) -> Iterator[Verdict]:
    for locality in ("uniform", "zipf:0.9"):
        for other in ("torch", "torch, huge pages"):
            for form, wanted in (("fp32", 1.8), ("bf16", 2.2)):
                ratios = {
                    f"{name}, b = {a['batch']}": _ratio(a["ns_per_row"], b["ns_per_row"], other, form)
                    for name in SPARSE_MODELS if name in models
                    for a, b in zip(models[name]["libraries"], models[name]["formats"], strict=True)
                    if a["locality"] == locality and a["batch"] >= FROM_SPARSE
                }  # fmt: skip
                beside = " (beside the goal)" if other != "torch" or locality != "uniform" else ""
                goal = f"sparse stage, {form} rows, {locality} ids, over {other}{beside}"
                reason = _ceiling(models, locality, other) if form == "fp32" else ""
                yield Verdict(goal, wanted, ratios, reason=reason)


def _ceiling(models: Mapping[str, Any], locality: str, other: str) -> str:
    """What a loop that only prefetches the rows would gain."""
    gains = [
        a["ns_per_row"][other] / a["ns_per_row"]["asking"]
        for name in SPARSE_MODELS if name in models
        for a in models[name]["libraries"] if a["locality"] == locality and a["batch"] >= FROM_SPARSE
    ]  # fmt: skip
    what = "a loop that prefetches the rows and reads none gains"
    return f"{what} {min(gains):.2f} – {max(gains):.2f}" if gains else ""


def _ratio(one: Mapping[str, float], two: Mapping[str, float], other: str, form: str) -> float:
    """Torch's time over ours; other formats than fp32 by way of fp32, which sat in both sittings."""
    return one[other] / one["fp32"] * (two["fp32"] / two[form])


def _dense(dense: Mapping[str, Any]) -> Iterator[Verdict]:
    models = dense.get("models", {})
    rows = [(name, row) for name, found in models.items() for row in found]
    gains = {f"{n}, b = {r['batch']}": r["seconds"]["eager"] / r["seconds"]["onnxruntime"] for n, r in rows}
    large = [(n, r["batch"]) for d in DENSE_MODELS for n, r in rows if n == d and r["batch"] >= FROM_DENSE]
    reason = ""
    if models:
        best, peak = dense["matrix_gflops"]["best"], dense["register_gflops"]
        reason = (f"the best library product does {best:.0f} of the {peak:.0f} GFLOP/s that the multiply-add units can, "
                  f"and eager torch's own products {_eager_rates(models)}")  # fmt: skip
    yield Verdict(
        "dense stage at fp32 over eager torch",
        1.8,
        {p: gains[p] for p in (f"{n}, b = {b}" for n, b in large)},
        reason=reason,
    )
    yield Verdict("dense stage at fp32, no slower than eager by more than 5 %", 0.95, gains)


def _eager_rates(models: Mapping[str, Any]) -> str:
    """Eager's GFLOP/s where the goal is for."""
    rates = [
        1e-9 * row["flops"] / row["seconds"]["eager"]
        for n in DENSE_MODELS for row in models.get(n, ()) if row["batch"] >= FROM_WHOLE
    ]  # fmt: skip
    return f"{min(rates):.0f} to {max(rates):.0f} from b = {FROM_WHOLE} on" if rates else "unknown"


def _whole(models: Mapping[str, Any]) -> Iterator[Verdict]:
    cells = {n: e["one"]["cells"] for n, e in models.items() if "one" in e}
    for wanted in sorted(set(GOALS.values()), reverse=True):
        names = [n for n, goal in GOALS.items() if goal == wanted and n in cells]
        for field, words, reason in (
            ("fraction", "its floor", "that floor is below what can be: see the corrected one"),
            ("corrected_fraction", "its corrected floor (beside the goal)", ""),
        ):
            shares = {
                f"{n}, b = {c['batch']}": c["engines"][BEST][field]
                for n in names for c in cells[n] if c["batch"] >= FROM_WHOLE
            }  # fmt: skip
            yield Verdict(f"whole model at fp32, share of {words}", wanted, shares, reason=reason)
    over = {n: c["call_overhead_us"] for n, found in cells.items() for c in found if c["batch"] == 1}
    yield Verdict("a call at b = 1 over its stages, µs", CALL_US, over, less=True)
    bf16 = {
        f"{n}, b = {c['batch']}": c["engines"][name]["gain_over_eager"]
        for n in DENSE_MODELS for c in cells.get(n, ()) if c["batch"] >= FROM_DENSE
        for name in c["engines"] if name == "compiled:openvino bf16"
    }  # fmt: skip
    yield Verdict("whole model, layers in bf16, over eager torch", 3.0, bf16)


def _gains(models: Mapping[str, Any]) -> Iterator[Verdict]:
    """Over eager in the mean of the eight models: what the gain in capacity rests on, and what it could be."""
    for part, words in (("one", "one core"), ("all", "all cores")):
        if not all(part in models.get(n, {}) for n in GOALS):
            continue
        gains, most = {}, []
        for k, batch in enumerate(c["batch"] for c in models[next(iter(GOALS))][part]["cells"]):
            engines = [models[n][part]["cells"][k]["engines"] for n in GOALS]
            if batch >= FROM_WHOLE:
                gains[f"b = {batch}"] = geometric_mean([e[BEST]["gain_over_eager"] for e in engines])
                most.append(geometric_mean([1 / e["eager fp32"]["corrected_fraction"] for e in engines]))
        yield Verdict(
            f"gain over eager torch at fp32, {words}, geometric mean of {len(GOALS)} models", GAIN, gains,
            reason=f"an engine at its corrected floor would gain {min(most):.2f} – {max(most):.2f}",
        )  # fmt: skip


def table(found: Iterable[Verdict]) -> str:
    """Markdown: goal, what is asked, the range that was measured, met or not and where not."""
    rows = []
    for v in found:
        sign = "at most" if v.less else "at least"
        low, high = min(v.found.values()), max(v.found.values())
        missed = v.missed()
        said = "met" if not missed else f"not met: {'; '.join(missed)}"
        if missed and v.reason:
            said += f". {v.reason[0].upper()}{v.reason[1:]}"
        rows.append((v.goal, f"{sign} {v.wanted:g}", f"{low:.2f} – {high:.2f}", said))
    return markdown(("goal", "asked", "measured", ""), rows)

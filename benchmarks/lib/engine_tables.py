"""What `engine/against_limits.py` measured, as Markdown and as a roofline plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness import markdown
from deeprecsys.paper.platforms.anchors import CAFFE2_BATCHES, CAFFE2_GFLOPS, CAFFE2_MS, CAFFE2_ROW_NS
from deeprecsys.zoo import MODELS
from deeprecsys.zoo.schema import Per

BEST = "compiled:onnxruntime fp32"
PARTS = {"one": "one core", "all": "all cores", "zipf": "one core, ids by Zipf's law"}
GOALS = {"dlrm-rmc1": 0.8, "dlrm-rmc2": 0.8, "dlrm-rmc3": 0.8, "wnd": 0.8, "mt-wnd": 0.8, "ncf": 0.6, "din": 0.6,
         "dien": 0.6}  # fmt: skip
"""Share of the floor that is aimed at from 64 items on."""


def sections(models: Mapping[str, Any], limits: Mapping[str, Any], machine: Mapping[str, Any]) -> str:
    """Limits, shares of floors by part, and the artefact's own code."""
    blocks = [_limits(limits, machine)]
    for part, words in PARTS.items():
        if any(part in entry for entry in models.values()):
            blocks += [f"**{words.capitalize()}**", _fractions(models, part)]
    if rows := caffe2(models):
        blocks += ["**Beside the artefact's own code**, its times on one core of another machine scaled by the two "
                   "machines' limits (the share of the floor that is products by their rates, that of rows by the time "
                   "per row) / ours = ratio. Where ours is slower, in brackets what an engine at its corrected floor "
                   "here would have:", markdown(("model", *(f"b = {b}" for b in CAFFE2_BATCHES)), rows)]  # fmt: skip
    return "\n\n".join(blocks)


def _limits(limits: Mapping[str, Any], machine: Mapping[str, Any]) -> str:
    ns = limits["rows"]["ns_per_row"]
    asking, reading = (
        ", ".join(f"{k.split()[1]} B {v:.1f}" for k, v in ns.items() if k.startswith(loop))
        for loop in ("asking", "reading")
    )
    bf16 = limits.get("bf16_gflops")
    return (
        f"Limits of one core ({machine.get('cpu', 'this machine')}): best fp32 product "
        f"{limits['fp32_gflops']['best']:.1f} GFLOP/s, "
        + (f"bf16 {bf16['best']:.0f}, " if bf16 else "no bf16 instructions, ")
        + f"multiply-adds on registers {limits['register_gflops']:.1f}. ns per random row of a table of "
        f"{limits['rows']['table_bytes'] / 1e9:.1f} GB on huge pages: prefetched only {asking}; read {reading}. "
        "`python -m benchmarks.engine.against_limits` makes this section."
    )


def _fractions(models: Mapping[str, Any], part: str) -> str:
    """ms of the engine, its share of the floor and of the corrected floor, and eager's ms."""
    found = {n: e[part]["cells"] for n, e in models.items() if part in e}
    batches = [c["batch"] for c in next(iter(found.values()))]
    rows = []
    for name, cells in found.items():
        by_batch = {c["batch"]: c for c in cells}
        call = f"+{by_batch[1]['call_overhead_us']:.0f} µs" if 1 in by_batch else ""
        rows.append((name, *(_cell(name, by_batch[b]) if b in by_batch else "" for b in batches), call))
    about = (
        "Milliseconds per batch, eager torch → compiled (ONNX Runtime), both fp32; share of the floor, in brackets of the "
        "corrected floor; compiled with bf16 rows, int8 rows. The floor: every matrix product at its own shape by the fastest "
        "library, and a loop that only prefetches the rows. Corrected: the products in turn, so that each finds its weight where the "
        "others left it; element-wise work added; rows read. Goals met are bold."
    )
    header = ("model", *(f"b = {b}" for b in batches), "call at b = 1")
    return f"{markdown(header, rows)}\n\n{about}"


def _cell(name: str, c: Mapping[str, Any]) -> str:
    e = c["engines"]
    own = e[BEST]
    share = f"{100 * own['fraction']:.0f} %"
    if c["batch"] >= 64 and own["fraction"] >= GOALS.get(name, 2.0):
        share = f"**{share}**"
    lower = ", ".join(f"{1e-3 * e[k]['us']:.3g}" for k in e if k.startswith("compiled:onnx") and k != BEST)
    return (f"{1e-3 * e['eager fp32']['us']:.3g} → {1e-3 * own['us']:.3g}, {share} "
            f"({100 * own['corrected_fraction']:.0f} %); {lower}")  # fmt: skip


def caffe2(models: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows: Caffe2's time scaled to this machine over ours."""
    rows = []
    for name, times in CAFFE2_MS.items():
        if entry := models.get(name, {}).get("one"):
            ours = {c["batch"]: c["engines"][BEST] for c in entry["cells"]}
            scaled = {
                b: ms * _slower(name, b, entry["limits"]) for b, ms in zip(CAFFE2_BATCHES, times, strict=True)
            }
            rows.append((name, *(_beside(ms, ours[b]) if b in ours else "" for b, ms in scaled.items())))
    return rows


def _beside(scaled_ms: float, ours: Mapping[str, float]) -> str:
    own, floor = 1e-3 * ours["us"], 1e-3 * ours["corrected_floor_us"]
    most = f" (floor {scaled_ms / floor:.2f})" if scaled_ms < own else ""
    return f"{scaled_ms:.3g} / {own:.3g} = {scaled_ms / own:.2f}{most}"


def _slower(name: str, items: int, limits: Mapping[str, Any]) -> float:
    """By what factor this machine's floor is above that of Caffe2's."""
    m = MODELS[name]
    flops = m.flops(Per.QUERY) + items * m.flops(Per.ITEM)
    size = 4 * m.schema.tables[0].dim
    rows = sum(i.lookups * (items if i.per is Per.ITEM else 1) for i in m.schema.sparse)
    ns = limits["rows"]["ns_per_row"]
    there_ns = CAFFE2_ROW_NS * ns[f"reading {size}"] / ns["reading 128"]
    here = flops / limits["fp32_gflops"]["best"] + rows * ns[f"reading {size}"]
    return float(here / (flops / CAFFE2_GFLOPS + rows * there_ns))


def roofline(models: Mapping[str, Any], limits: Mapping[str, Any], path: Path, batch: int = 256) -> None:
    """GFLOP/s over FLOPs per byte of embedding rows and weights, one core, eager and compiled."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    rate = limits["fp32_gflops"]["best"]
    bandwidth = 128 / limits["rows"]["ns_per_row"]["reading 128"]  # GB/s
    fig, ax = plt.subplots(figsize=(8.5, 5.5), dpi=130)
    xs = np.geomspace(0.5, 3e3, 200)
    ax.loglog(xs, np.minimum(rate, bandwidth * xs), color="black", lw=1.5)
    ax.text(2.5e3, rate * 1.06, f"best fp32 product, {rate:.0f} GFLOP/s", ha="right", fontsize=8)
    ax.text(0.72, bandwidth * 0.6, f"random rows of 128 B, {bandwidth:.0f} GB/s", fontsize=8)
    for k, (name, entry) in enumerate((n, e["one"]) for n, e in models.items() if "one" in e):
        c = next((c for c in entry["cells"] if c["batch"] == batch), None)
        if c is None or name.endswith("-artefact"):
            continue
        m = MODELS[name]
        rows = m.schema.gathered_bytes(Per.QUERY) + batch * m.schema.gathered_bytes(Per.ITEM)
        x = c["flops"] / (rows + 4 * m.dense_parameters)
        best = c["engines"][BEST]
        times = (c["engines"]["eager fp32"]["us"], best["us"], best["floor_us"])
        eager, own, floor = (1e-3 * c["flops"] / us for us in times)
        color = f"C{k % 10}"
        ax.plot([x, x], [eager, own], color=color, lw=1, zorder=2)
        ax.plot(x, eager, "o", mfc="white", color=color, ms=6, zorder=3)
        ax.plot(x, own, "o", color=color, ms=6, zorder=3, label=name)
        ax.plot([x / 1.12, x * 1.12], [floor, floor], color=color, lw=2)
    ax.legend(loc="lower right", fontsize=8)
    ax.set_ylim(top=1.5 * rate)
    ax.set_xlabel("FLOPs per byte of embedding rows and weights")
    ax.set_ylabel("GFLOP/s, one core")
    title = f"Batches of {batch}: eager torch (hollow), compiled (full), the model's own floor (bar)"
    ax.set_title(title, fontsize=10)
    ax.grid(True, which="both", alpha=0.15)
    fig.tight_layout()
    fig.savefig(path)
    plt.close(fig)

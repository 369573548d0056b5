"""Write docs/results.md, its pictures and the README's from the saved results: one sentence a result, no figure typed.

python -m benchmarks.summary
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import geometric_mean

from benchmarks.harness import RESULTS, ROOT, Result, Tables, load, markdown, put
from benchmarks.lib.bars import Bars

PICTURES = ROOT / "docs" / "_static" / "pictures"


@dataclass(frozen=True)
class Topic:
    """A result of the page.

    Attributes:
        name: of its picture. title: above it.
        result: of the saved result. page: of its tables, with the anchor.
        sentence, bars: made of the result; a topic without bars is a sentence alone.
    """

    name: str
    title: str
    result: str
    page: str
    sentence: Callable[[Result], str]
    bars: Callable[[Result], Bars] | None = None

    def picture(self) -> str | None:
        """Text of the SVG file."""
        return self.bars(load(self.result)).svg() if self.bars else None

    def text(self) -> str:
        """Markdown of the topic."""
        result = load(self.result)
        text = f"**{self.title}.** {self.sentence(result)} [Tables](results/{self.page})."
        if self.bars:
            text += f"\n\n![{self.bars(result).title}](_static/pictures/{self.name}.svg)"
        return text


def kind(result: Result) -> str:
    """The machine in a few words: processor, widest vectors, cores."""
    m = result["machine"]
    width = "AVX-512" if "avx512f" in m["isa"] else "AVX2"
    return f"{m['cpu']} with {width}, {m['cores']} core{'s' if m['cores'] > 1 else ''}"


def machine(result: Result) -> str:
    return f"{kind(result)}, {result['date']}"


def gains(result: Result) -> list[tuple[str, float, float]]:
    """For each model the fastest engine and the tuned point, as multiples of the usual rate."""
    found = []
    for model, by_engine in result["models"].items():
        eager, compiled = by_engine["eager"], by_engine["compiled"]
        usual = eager["static"]["qps"]
        found.append((model, compiled["static"]["qps"] / usual, compiled["tuned"]["qps"] / usual))
    return found


def gain_sentence(result: Result) -> str:
    engine, tuned = (geometric_mean(x) for x in zip(*((e, t) for _, e, t in gains(result)), strict=True))
    return (
        f"Over eager PyTorch with one large batch size, the fastest engine carries {engine:.2f} times as many queries per "
        f"second within the p95 target, and the tuned operating point {tuned:.2f} times (geometric mean of eight models)."
    )


def gain_bars(result: Result) -> Bars:
    groups = [(model, (1.0, engine, tuned)) for model, engine, tuned in gains(result)]
    return Bars(
        "Queries per second at each model's p95 target, relative to the usual",
        f"{machine(result)}; trials of two seconds, not sustained",
        ("usual: eager, one batch size", "fastest engine", "tuned"),
        groups,
        lambda v: f"{v:.2f}×",
    )


def engine_share(result: Result) -> list[tuple[str, float]]:
    """For each of the paper's models, the share of one core's floor that the fastest fp32 engine reaches at 256 items."""
    found = []
    for model, by_cores in result["models"].items():
        if not model.endswith("-artefact"):
            cell = next(c for c in by_cores["one"]["cells"] if c["batch"] == 256)
            fp32 = [
                e["fraction"]
                for name, e in cell["engines"].items()
                if name.startswith("compiled") and "fp32" in name
            ]
            found.append((model, max(fp32)))
    return found


def engine_sentence(result: Result) -> str:
    shares = [share for _, share in engine_share(result)]
    return (
        f"On one core, batches of 256 items run at {100 * min(shares):.0f} to {100 * max(shares):.0f} % of the speed that the "
        "core's own limits for matrix products and random memory reads allow."
    )


def engine_bars(result: Result) -> Bars:
    groups = [(model, (share,)) for model, share in engine_share(result)]
    title = "Share of the machine's limit that a batch of 256 items reaches, one core, fp32"
    return Bars(title, machine(result), ("share",), groups, lambda v: f"{100 * v:.0f} %", (1.0, "limit"))


def parity_sentence(result: Result) -> str:
    errors = {model: found["capacity_error"] for model, found in result["models"].items()}
    worst = max(errors, key=lambda m: abs(errors[m]))
    return (
        f"The capacity that the simulator predicts from measured batch times is above the live one by {100 * min(errors.values()):.1f} "
        f"to {100 * errors[worst]:.0f} %; it is furthest off for {worst}."
    )


def parity_bars(result: Result) -> Bars:
    groups = [(m, (found["predicted_qps"] / found["live_qps"],)) for m, found in result["models"].items()]
    title = "Capacity predicted in virtual time, over the capacity measured live"
    return Bars(title, machine(result), ("ratio",), groups, lambda v: f"{v:.2f}", (1.0, "equal"))


MIDDLE = ("static", "best fixed", "coalescing")


def policy_groups(result: Result) -> list[tuple[str, tuple[float, ...]]]:
    """At the medium target and a steady load: rates of three policies, as multiples of the best fixed batch size's."""
    cases = [c for c in result["cases"] if (c["level"], c["load"]) == ("medium", "steady")]
    rates = [(c["model"], [c["policies"][p]["qps"] for p in MIDDLE]) for c in cases]
    return [(model, tuple(q / found[1] for q in found)) for model, found in rates]


def policy_sentence(result: Result) -> str:
    groups = policy_groups(result)
    static, _, merged = (
        geometric_mean(column) for column in zip(*(values for _, values in groups), strict=True)
    )
    return (
        f"On {result['cores']} simulated cores at the paper's medium target, the best fixed batch size carries {1 / static:.2f} times what "
        f"an even split over the cores does, and merging queries {merged:.2f} times the best fixed size (geometric means)."
    )


def policy_bars(result: Result) -> Bars:
    return Bars(
        f"Capacity on {result['cores']} simulated cores, relative to the best fixed batch size",
        f"simulated from batch times of {kind(result)}",
        ("even split", "best fixed batch size", "coalescing"),
        policy_groups(result),
        lambda v: f"{v:.2f}×",
    )


def sustained_sentence(result: Result) -> str:
    below, above = (
        [q["at"][at]["sustained"] / q["at"][at]["seeds"] for q in result["queues"]] for at in ("0.95", "1.03")
    )
    former = [q["at"]["1.03"]["former"] / q["at"]["1.03"]["seeds"] for q in result["queues"]]
    return (
        f"Of runs at 5 % below the true capacity the rule for a sustained rate accepts at least {100 * min(below):.0f} %, of runs at 3 % "
        f"above it at most {100 * max(above):.0f} %; pooled short trials accepted up to {100 * max(former):.0f} % of the latter."
    )


def sustained_bars(result: Result) -> Bars:
    def share(queue: Result, what: str) -> float:
        return float(queue["at"]["1.03"][what] / queue["at"]["1.03"]["seeds"])

    groups = [
        (q["queue"].removesuffix(" target"), (share(q, "former"), share(q, "sustained")))
        for q in result["queues"]
    ]
    title = "Runs accepted at 3 % above the true capacity: none should be"
    return Bars(
        title, "simulated, 100 seeds for each queue", ("pooled short trials", "the rule"), groups, _percent
    )


def offload_sentence(result: Result) -> str:
    cases = [c for c in result["cases"] if c["level"] == "medium" and c["alone_qps"]]
    gain = geometric_mean(c["sweep"]["qps"] / c["alone_qps"] for c in cases)
    return (
        f"An emulated {result['device']} next to {result['cores']} cores, with large queries sent to it, raises the simulated capacity at the "
        f"medium target {gain:.1f} times (geometric mean of {len(cases)} models); no GPU has been measured."
    )


def face_sentence(result: Result) -> str:
    found = result["models"]
    shares = sorted((m["face_share_of_scoring"], name) for name, m in found.items())
    wnd = found["wnd"]
    added = wnd["p50_http_ms"] - wnd["p50_in_process_ms"]
    return (
        f"HTTP adds {added:.1f} ms to the median of a query of wnd, and takes from {100 * shares[0][0]:.0f} % ({shares[0][1]}) to "
        f"{100 * shares[-1][0]:.0f} % ({shares[-1][1]}) of the processor time of scoring."
    )


def overload_sentence(result: Result) -> str:
    o = result["overload"]
    times = o["rate_qps"] / result["capacity"]["qps"]
    return (
        f"Under {times:.0f} times its capacity a server of {result['model']} answered {o['served']:,} of {o['offered']:,} queries, p95 "
        f"{o['p95_ms']:.1f} ms for a target of {result['target_ms']:g} ms, refused the rest and lost {o['unanswered']}."
    )


def kills_sentence(result: Result) -> str:
    a = result["all"]
    return (
        f"With a worker killed {result['kills']} times under load, {a['offered']:,} queries were all answered or refused, {a['wrong']} wrong, "
        f"and p95 was within the target again after {result['settled_s']:g} s."
    )


def chaos_sentence(result: Result) -> str:
    offered, lost, wrong = (
        sum(c[k] for c in result["clients"].values()) for k in ("offered", "lost", "wrong")
    )
    return (
        f"In {result['seconds'] / 60:.0f} minutes of kills, hangs, swaps and hostile clients at once, {lost} of {offered:,} queries got "
        f"neither scores nor a reason, and {wrong} got wrong scores; the server was not ready for up to {result['longest_not_ready_s']:.0f} s."
    )


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


TOPICS = (
    Topic("gain", "Against the usual", "search_tune_by_engine", "search.md#the-main-job-with-each-engine",
          gain_sentence, gain_bars),
    Topic("engines", "Against the machine's limits", "engine_against_limits",
          "engines.md#engines-against-the-machine-s-limits", engine_sentence, engine_bars),
    Topic("policies", "Policies", "simulate_policies", "simulation.md#policies-on-40-simulated-cores",
          policy_sentence, policy_bars),
    Topic("sustained", "What is accepted as a capacity", "search_sustained",
          "search.md#what-the-rule-for-a-sustained-capacity-accepts", sustained_sentence, sustained_bars),
    Topic("parity", "Simulator against machine", "simulate_parity", "simulation.md#the-simulator-against-the-live-node",
          parity_sentence, parity_bars),
    Topic("offload", "Emulated accelerator", "search_offload_simulated",
          "accelerator.md#the-offload-threshold-emulated-gtx-1080-ti", offload_sentence),
    Topic("face", "The network face", "serve_face_cost", "serving.md#what-the-network-face-costs", face_sentence),
    Topic("overload", "Overload", "serve_overload", "serving.md#three-times-the-load", overload_sentence),
    Topic("kills", "Workers killed", "serve_worker_kills", "serving.md#workers-killed", kills_sentence),
    Topic("chaos", "Everything at once", "serve_chaos", "serving.md#everything-at-once", chaos_sentence),
)  # fmt: skip


def tables() -> Tables:
    """The page's sentences, and which result was measured on which kind of machine."""
    by_kind: dict[str, list[tuple[str, str, str]]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        result = load(path.stem)
        by_kind.setdefault(kind(result), []).append((path.stem, result["date"], result["commit"]))
    rows = [(k, f"`{name}`", date, commit) for k in sorted(by_kind) for name, date, commit in by_kind[k]]
    return {
        "docs/results.md#sentences": "\n\n".join(topic.text() for topic in TOPICS),
        "docs/results.md#kinds": markdown(("machine", "result", "date", "commit"), rows),
    }


def main() -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    for topic in TOPICS:
        if picture := topic.picture():
            (PICTURES / f"{topic.name}.svg").write_text(picture)
    put(tables())


if __name__ == "__main__":
    main()

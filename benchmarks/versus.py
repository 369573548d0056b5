"""Another source tree against this one, interleaved in one run: medians, and ratios new / old pair by pair.

Batches/s and p50 of the node with a null engine; the network face's CPU time per query of WND and RMC3; the p50 of a
WND query of 100 items over HTTP; how long the command `bench` takes with a null engine and a very short trial. Every
figure is taken of one tree right after the other, and which comes first alternates. Five pairs take less than ten minutes;
keep the machine idle.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.harness import ROOT, Benchmark, Result, Run, commit, figures, markdown
from deeprecsys.report import format as f

PROBE = Path(__file__).with_name("lib") / "versus_probe.py"
LIMIT = 1.05
"""A figure may be worse by this factor."""
STARTS = 5
BENCH = ("bench", "ncf", "--engine", "null", "--rows-scale", "0.01", "--rate", "100", "--duration", "0.1",
         "--json", os.devnull)  # fmt: skip


class Figure(NamedTuple):
    """What is compared.

    Attributes:
        key: of the probe's figures.
        less: smaller is better.
    """

    what: str
    key: str
    less: bool = True


def probe(*what: Any) -> Callable[[Path], dict[str, float]]:
    def measure(tree: Path) -> dict[str, float]:
        done = subprocess.run([sys.executable, PROBE, json.dumps(what)], stdout=subprocess.PIPE, check=True,
                              cwd=tree, env=environment(tree))  # fmt: skip
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found

    return measure


def starts(tree: Path) -> dict[str, float]:
    """Wall time of the whole command."""
    taken = []
    for _ in range(STARTS):
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "deeprecsys", *BENCH], stdout=subprocess.DEVNULL, check=True,
                       cwd=tree, env=environment(tree))  # fmt: skip
        taken.append(time.monotonic() - began)
    return {"bench_s": median(taken)}


def environment(tree: Path) -> dict[str, str]:
    """What makes a process take its modules from a tree."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tree / "src", tree, tree / "benchmarks")))}


Probes = list[tuple[Callable[[Path], dict[str, float]], tuple[Figure, ...]]]


def probes(quick: bool) -> Probes:
    """What is measured, and the figures that are read from it."""
    scale, queries = (0.01, 20) if quick else (1.0, 400)
    return [
        (probe("node", 1 if quick else 5), (Figure("node, null engine: batches/s", "batches_per_s", less=False),
                                            Figure("node, null engine: dispatch to completion, p50, µs", "p50_us"))),
        (probe("face", "wnd", scale, queries), (Figure("WND: the face's CPU per query, µs", "cpu_us"),
                                                Figure("WND, 100 items: p50 over HTTP, ms", "p50_http_ms"))),
        (probe("face", "dlrm-rmc3", scale, queries), (Figure("RMC3: the face's CPU per query, µs", "cpu_us"),)),
        (starts, (Figure("bench, null engine: the whole command, s", "bench_s"),)),
    ]  # fmt: skip


def run(run: Run) -> Result:
    old = Path(run.options.old).resolve()
    if not (old / "src" / "deeprecsys").is_dir():
        raise SystemExit(f"--old {run.options.old}: expected a source tree with src/deeprecsys")
    trees = {"old": old, "new": ROOT}
    values: dict[str, dict[str, list[float]]] = {}
    for pair in range(1 if run.quick else run.options.pairs):
        for measure, read in probes(run.quick):
            order = list(trees)[:: -1 if pair % 2 else 1]
            found = {which: measure(trees[which]) for which in order}
            print(
                f"pair {pair + 1}:",
                *(f"{which}: {figures(found[which])}" for which in trees),
                sep="  ",
                flush=True,
            )
            for figure in read:
                kept = values.setdefault(figure.what, {"old": [], "new": []})
                for which in trees:
                    kept[which].append(found[which][figure.key])
    every = [figure for _, read in probes(run.quick) for figure in read]
    compared = [{"what": x.what, "less": x.less, **values[x.what], **ratios(**values[x.what])} for x in every]
    result = {"old": commit(old), "limit": LIMIT, "figures": compared}
    print(table(result))
    return result


def ratios(old: list[float], new: list[float]) -> dict[str, Any]:
    """New over old, pair by pair, and their median."""
    pairs = [b / a for a, b in zip(old, new, strict=True)]
    return {"ratios": pairs, "ratio": median(pairs)}


def table(result: Result) -> str:
    rows = []
    for x in result["figures"]:
        worse = x["ratio"] if x["less"] else 1 / x["ratio"]
        goal = f"≤ {result['limit']:g}" if x["less"] else f"≥ {1 / result['limit']:.3f}"
        rows.append((x["what"], f.figure(median(x["old"])), f.figure(median(x["new"])), f"{x['ratio']:.3f}",
                     ", ".join(f"{r:.3f}" for r in x["ratios"]), goal, "met" if worse <= result["limit"] else "**not met**"))  # fmt: skip
    header = ("figure", f"old ({result['old']})", "new", "new / old, median", "pairs", "goal", "")
    return markdown(header, rows)


BENCHMARK = Benchmark(
    __file__, __doc__, run,
    options={
        "--old": {"required": True, "metavar": "TREE", "help": "the other source tree"},
        "--pairs": {"type": int, "default": 5},
    },
)  # fmt: skip

if __name__ == "__main__":
    BENCHMARK.main()

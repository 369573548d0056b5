"""Fifty thousand files that were changed by chance, of every kind that users name.

Any end but a result or one line of refusal is a fault: a traceback, a crash, more than 30 s, a descriptor or
a process that is left. Each batch of files is read in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from typing import Any

from benchmarks.harness import ROOT, Benchmark, Result, Run, Tables, markdown
from tests.files.fuzz import HANG_S, NAMES

FILES = 50_000
BATCH = 500


def batch(counts: Mapping[str, int], seed: int) -> dict[str, Result]:
    """What became of so many files of each kind, read in one process; its crash or hang is a fault of the kind
    that was read, and of those that would have come after."""
    command = [sys.executable, "-m", "tests.files.fuzz", str(seed), *(f"{k}={n}" for k, n in counts.items())]
    longest_s = HANG_S + 20 * sum(counts.values())
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=longest_s, check=False
        )
        out, said = done.stdout, done.stderr[-600:]
    except subprocess.TimeoutExpired as e:
        out, said = (e.stdout or b"").decode(), "hung"
    fault = {"seen": {"crash": 1}, "faults": [f"{seed}…: {said}"]}
    crash = fault | dict.fromkeys(("descriptors", "children", "peak_mb"), 0)
    found = [json.loads(line) for line in out.splitlines() if line.endswith("}")]
    return dict(zip_longest(counts, found, fillvalue=crash))


def run(run: Run) -> Result:
    each = (40 if run.quick else run.options.files) // len(NAMES)
    kinds: dict[str, Any] = {}
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    for kind in NAMES:
        seen: Counter[str] = Counter()
        faults, left, peak_mb = [], [0, 0], 0
        for found in pool.map(
            lambda at, kind=kind: batch({kind: min(BATCH, each - at)}, run.options.seed + at)[kind],
            range(0, each, BATCH),
        ):
            seen.update(found["seen"])
            faults += found["faults"]
            left = [left[0] + found["descriptors"], left[1] + found["children"]]
            peak_mb = max(peak_mb, found["peak_mb"])
        kinds[kind] = {"seen": dict(seen), "faults": faults, "descriptors": left[0], "children": left[1],
                       "peak_mb": peak_mb}  # fmt: skip
        print(f"{kind}: {dict(seen)}, left {left}, peak {peak_mb} MB", *faults[:5], sep="\n  ", flush=True)
    return {"files": each * len(NAMES), "kinds": kinds}


def tables(result: Result) -> Tables:
    """Ends by kind."""
    ends = ("read", "refused", "traceback", "hung", "crash")
    rows = [
        (kind, *(f["seen"].get(end, 0) for end in ends), f["descriptors"], f["children"], f["peak_mb"])
        for kind, f in result["kinds"].items()
    ]
    head = ("kind", *ends, "descriptors left", "processes left", "peak memory, MB")
    return {"files-fuzz": markdown(head, rows)}


BENCHMARK = Benchmark(
    __file__, __doc__, run, tables,
    options={
        "--files": {"type": int, "default": FILES, "help": "how many in all"},
        "--seed": {"type": int, "default": 0, "help": "of the first file"},
    },
)  # fmt: skip

if __name__ == "__main__":
    BENCHMARK.main()

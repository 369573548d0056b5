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
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.harness import ROOT, Benchmark, Result, Run, Tables, markdown
from tests.files.fuzz import HANG_S, NAMES

FILES = 50_000
BATCH = 500


def batch(kind: str, seed: int, count: int) -> Result:
    """What became of a batch of files; a crash or a hang counts as one fault."""
    command = [sys.executable, "-m", "tests.files.fuzz", kind, str(seed), str(count)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=HANG_S + 20 * count, check=False
        )
        found: Result = json.loads(done.stdout.splitlines()[-1])
        return found
    except (subprocess.TimeoutExpired, IndexError, ValueError) as e:
        said = getattr(done, "stderr", "")[-600:] if not isinstance(e, subprocess.TimeoutExpired) else "hung"
        return {
            "seen": {"crash": 1},
            "faults": [f"{seed}…: {said}"],
            "descriptors": 0,
            "children": 0,
            "peak_mb": 0,
        }


def run(run: Run) -> Result:
    each = (40 if run.quick else run.options.files) // len(NAMES)
    kinds: dict[str, Any] = {}
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    for kind in NAMES:
        seen: Counter[str] = Counter()
        faults, left, peak_mb = [], [0, 0], 0
        for found in pool.map(
            lambda at, kind=kind: batch(kind, run.options.seed + at, min(BATCH, each - at)),
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

"""Measures one source tree; run as a script, with that tree's `src`, root and `benchmarks` on the path.

Uses only what trees of different layouts have in common, by whatever name it has there. Prints figures as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any


def first(*names: str) -> Any:
    """The first of some modules that the tree has."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as e:
            if e.name not in {name.rsplit(".", k)[0] for k in range(name.count(".") + 1)}:
                raise
    raise SystemExit(f"expected one of the modules {', '.join(names)}")


def node(rounds: int) -> dict[str, float]:
    """Back-to-back batches of one item through the dispatcher on one worker with a null engine."""
    import numpy as np

    from deeprecsys.core.policy import Static
    from deeprecsys.node.node import Node, NodeConfig
    from deeprecsys.workload.stream import Workload

    recording_of = first("deeprecsys.node.driver", "deeprecsys.node.trial").Recording
    rates, times = [], []
    with Node(NodeConfig("ncf", rows_scale=0.1, engine="null", workers=1)) as one:
        stream = Workload.parse("constant", "fixed:1000").stream(100, duration_s=0.3)
        for _ in range(rounds):
            recording = recording_of()
            log = one.run(Static(1), stream, recording=recording)
            rates.append(len(recording.batches) / log.duration_s)
            times.append(np.array([b[1:] for b in recording.batches]))
    posted, *_, completed = np.concatenate(times).T
    return {"batches_per_s": float(np.median(rates)), "p50_us": 1e6 * float(np.median(completed - posted))}


def face(name: str, rows_scale: float, queries: int) -> dict[str, float]:
    """The network face's CPU time per query, and the p50 of a query of 100 items over HTTP."""
    import uvloop

    own = first("benchmarks.serve.face_cost", "serve_face")
    os.sched_setaffinity(0, own.server_cores())
    own.without_fork_handlers()
    with own.realtime(), own.awake():
        found = uvloop.run(own.measure(own.real, name, rows_scale, queries, 1, False))
    cpu_us = found["loop_cpu_http_us"] - found["loop_cpu_in_process_us"]
    return {"cpu_us": cpu_us, "p50_http_ms": found["p50_http_ms"]}


if __name__ == "__main__":
    what, *arguments = json.loads(sys.argv[1])
    print(json.dumps({"node": node, "face": face}[what](*arguments)))

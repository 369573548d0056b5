"""Ten minutes at 100 % of the load that `serve` announces, over HTTP: in time, and nothing refused.

The server has all cores but the last; `bench --url`, a process of its own, has the last. One result per model is
saved, so that `--more` goes on where a run was interrupted. Keep the machine idle.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, Benchmark, Result, Run, Tables
from benchmarks.lib.live_server import Row, cores_of_layout, server, verdicts
from deeprecsys.report import format as f

OWN = "own"
TARGETS_MS = {"wnd": 25.0, "dlrm-rmc1": 100.0, OWN: 50.0}
SECONDS, QUICK_S = 600.0, 3.0
QUICK = ("--rows-scale", "0.01")
FIGURES = (
    "offered", "completed", "shed", "failed", "served", "p50_ms", "p95_ms", "p99_ms", "lateness_p99_ms", "void",
)  # fmt: skip


def exported(folder: Path) -> str:
    """The example's model as an ONNX file."""
    subprocess.run(
        [sys.executable, str(ROOT / "examples/own_model/export.py"), str(folder)],
        check=True, capture_output=True,
    )  # fmt: skip
    return str(folder / "ranker.onnx")


def measure(name: str, seconds: float, quick: bool) -> Result:
    """What a client sees of one model at the announced load."""
    ours, clients = cores_of_layout()
    with tempfile.TemporaryDirectory() as folder:
        model = exported(Path(folder)) if name == OWN else name
        common = (model, "--sla-ms", f"{TARGETS_MS[name]:g}", *(QUICK if quick and name != OWN else ()))
        with server(*common, cores=ours) as s:
            said = next(ln for ln in s.said.read_text().splitlines() if "load it can carry" in ln)
            if not s.stated_qps > 0:
                raise SystemExit(f"no load was announced: {said}")
            url = f"http://127.0.0.1:{s.http_port}"
            command = (
                "bench",
                *common,
                "--url",
                url,
                "--rate",
                f"{s.stated_qps:g}",
                "--duration",
                f"{seconds:g}",
            )
            done = subprocess.run(
                ["taskset", "-c", ",".join(map(str, clients)), sys.executable, "-m", "deeprecsys", *command,
                 "--json", "-"],
                stdout=subprocess.PIPE, check=True, text=True,
            )  # fmt: skip
    seen = json.loads(done.stdout)
    found = {k: seen.get(k) for k in FIGURES}
    return {
        "target_ms": TARGETS_MS[name],
        "announced_qps": s.stated_qps,
        "seconds": seconds,
        "said": said,
        **found,
    }


def run(run: Run) -> None:
    quick = run.quick
    run.each(
        [(name,) for name in TARGETS_MS], lambda name: measure(name, QUICK_S if quick else SECONDS, quick)
    )


def rows(name: str, r: dict[str, Any]) -> list[Row]:
    face = re.search(r"limited by the ([a-z ]+);.* takes ([0-9.e-]+ ms)", r["said"])
    limit = f"limited by the {face[1]}; face {face[2]} per query" if face else "the face was not measured"
    load = f"{r['announced_qps']:,.0f} queries/s for {r['seconds']:g} s"
    p95 = r["p95_ms"]  # None where more than 5 % had no answer
    late = "none" if p95 is None else f"{p95:.1f} ms"
    return [
        Row(f"{name}: announced, and offered", f"{load} ({limit})"),
        Row(f"{name}: p95", late, f"≤ {r['target_ms']:g} ms", p95 is not None and p95 <= r["target_ms"]),
        Row(f"{name}: refused or failed of {r['offered']:,}", f"{r['offered'] - r['completed']:,}", "0",
            r["offered"] == r["completed"]),
        Row(f"{name}: the client's own lateness at p99", f"{f.figure(r['lateness_p99_ms'])} ms", "valid", not r["void"]),
    ]  # fmt: skip


def tables(result: Result) -> Tables:
    return {
        "serve-announced": verdicts([row for name, r in result["models"].items() for row in rows(name, r)])
    }


BENCHMARK = Benchmark(__file__, __doc__, run, tables, tuple(TARGETS_MS))

if __name__ == "__main__":
    BENCHMARK.main()

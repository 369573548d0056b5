"""The example, served by a live node: in each of its forms the same scores, and each table once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from deeprecsys.core.policy import DeepRecSched
from deeprecsys.node.node import Node, NodeConfig
from tests.custom.conftest import EXAMPLE
from tests.node.test_node import Collect, rows_of, stream

pytestmark = pytest.mark.live

CLASS = f"{EXAMPLE / 'model.py'}:ServedRanker"
WORKERS = 2
SIZES = [1, 2, 17, 64, 100, 99, 31]


def ranker(exported: Path) -> torch.nn.Module:
    """The user's own module with its weights, called by nobody but its user."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        from model import Ranker
    finally:
        sys.path.remove(str(EXAMPLE))
    module = Ranker().eval().requires_grad_(False)
    module.load_state_dict(torch.load(exported / "ranker.pt", weights_only=True))
    return module


def node(name: str, engine: str) -> Node:
    return Node(NodeConfig(name, engine=engine, workers=WORKERS, max_query=100))


CHUNK = 1 << 24


def own_regions(pid: int, least: int) -> Iterator[tuple[int, int]]:
    """Begin and end of what a process has for itself and of no file, where that much is filled."""
    begin = end = 0
    ours = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            begin, end = (int(x, 16) for x in first.split("-"))
            ours = rest[0] == "rw-p" and rest[3] == "0"
        elif ours and first == "Anonymous:" and 1024 * int(rest[0]) >= least:
            yield begin, end


def privately_held(pid: int, rows: list[bytes], least: int) -> int:
    """How many of the rows a process holds for itself, among at least so many bytes."""
    longest, found = max(map(len, rows)), set()
    fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        for begin, end in own_regions(pid, least):
            for at in range(begin, end, CHUNK):
                content = os.pread(fd, min(CHUNK + longest, end - at), at)
                found |= {i for i, row in enumerate(rows) if row in content}
    finally:
        os.close(fd)
    return len(found)


def test_what_a_process_holds_for_itself_is_found() -> None:
    code = "held = bytearray(range(251)) * 500_000; print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        held = privately_held(process.pid, [bytes(range(251)), os.urandom(251)], 10**8)
        process.kill()
    assert held == 1


@pytest.mark.parametrize(
    ("form", "engine"),
    [
        (f"{CLASS}@{{}}/ranker.safetensors", "eager"),
        (f"{CLASS}@{{}}/ranker.pt", "compiled"),
        ("{}/ranker.onnx", "compiled"),
        ("{}/ranker.pt2", "eager"),
    ],
)
def test_every_form_scores_as_the_users_module_and_holds_each_table_once(
    form: str, engine: str, exported: Path
) -> None:
    module, queries = ranker(exported), stream(SIZES, gap_s=0.02)
    collect = Collect()
    with node(form.format(exported), engine) as live:
        live.run(DeepRecSched(25), queries, hooks=collect)
        assert len(collect.scores_by_query) == len(SIZES)
        for k, (size, handle) in enumerate(zip(SIZES, queries.features.tolist(), strict=True)):
            first, rows = rows_of(live)(handle), live.memory.inputs
            user, history, item, features = (
                torch.from_numpy(rows[name][first[name] :][:n].copy())
                for name, n in (("user", 1), ("history", 1), ("item", size), ("features", size))
            )
            wanted = module(user[:, 0], history, item[:, 0], features).numpy()
            np.testing.assert_allclose(collect.scores_by_query[k][:, 0], wanted, atol=1e-5)
        largest = max(live.memory.tables.values(), key=lambda t: t.nbytes)
        some = [largest[k].tobytes() for k in np.linspace(3, len(largest) - 3, 5, dtype=int)]
        # A row or another may still lie where a batch gathered it.
        assert all(privately_held(pid, some, largest.nbytes) < len(some) for pid in live.pool.pids)

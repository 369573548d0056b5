"""Settings that all tests share."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from deeprecsys.api import policies
from deeprecsys.core.policy import registry

STARTS_A_NODE = {"bench", "capacity", "profile", "quality", "serve", "tune"}
"""Commands that start worker processes."""

# Shared machines stall: a slow example is no defect.
settings.register_profile("deeprecsys", deadline=None, print_blob=True)
settings.load_profile("deeprecsys")

# Triton reads this as it is imported. Without a GPU its kernels are interpreted (tests/engine/cuda).
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

started: list[str] = []
"""Command lines of the worker processes, and of the commands that have some, started by this process."""


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen" and starts_workers(args[1]):
        started.append(" ".join(map(str, args[1])))


def starts_workers(command: Sequence[object]) -> bool:
    """Whether a command line is a worker's, or one of a command that starts some."""
    words = [str(word) for word in command]
    if "--help" in words or "-m" not in words:
        return False
    module, *args = words[words.index("-m") + 1 :]
    return module.startswith("deeprecsys.node.") or (
        module == "deeprecsys" and bool(STARTS_A_NODE.intersection(args[:1]))
    )


sys.addaudithook(_audit)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("alone"):
            item.add_marker(pytest.mark.live)


@pytest.fixture(autouse=True)
def registry_as_it_was() -> Iterator[None]:
    """Plug-in policies that a test loads are unknown to the next: what is known is searched."""
    known = dict(registry.POLICIES)
    yield
    registry.POLICIES.clear()
    registry.POLICIES.update(known)
    policies.LOADED.clear()


def pytest_runtest_setup(item: pytest.Item) -> None:
    started.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    yield
    if started and not item.get_closest_marker("live"):
        pytest.fail(f"expected the mark `live` on a test that starts a node; it started {started[0]}")


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the export script of the example in `examples/own_model` fills; not to be written to.

    It is made once for all the processes that run tests side by side.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, script = base / "ranker", Path(__file__).parents[1] / "examples" / "own_model" / "export.py"
    with (base / "ranker.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            made = base / "ranker.partial"
            done = subprocess.run([sys.executable, str(script), str(made)], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert {p.suffix for p in made.iterdir()} >= {".onnx", ".pt2", ".pt", ".safetensors"}
            made.rename(folder)
    return folder

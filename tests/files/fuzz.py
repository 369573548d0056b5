"""Files that were changed by chance, each read by the command or the function that reads it, in one process.

`python -m tests.files.fuzz SEED KIND=COUNT ...` prints what became of each kind's as a line of JSON: a crash
ends the process.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from deeprecsys.cli import cli, errors
from deeprecsys.core.errors import InputError
from deeprecsys.core.policy.registry import POLICIES

HANG_S = 30
RUNS = Path(__file__).parent.parent / "fixtures" / "0.1"
PROFILE = {
    "model": "ncf",
    "points": [{"batch": b, "seconds": [1e-3, 1.1e-3 + 1e-5 * b]} for b in (1, 100, 1000)],
}
TOML = (
    'rate = 50\nqueries = 100\nsizes = "fixed:5"\nseed = 3\nquantile = 95.0\nsla_ms = 20\npolicy = "static"\n'
)
POLICY = """
from dataclasses import dataclass
from deeprecsys.core.policy import Static


@dataclass(frozen=True)
class Mine(Static):
    name = "mine"
"""
TOKENS = (
    b"-1", b"0", b"1", b"3.5", b"1e999", b"-1e308", b"1e-320", b"9" * 40, b"9" * 5000, b"2147483647", b"NaN",
    b"null", b"true", b'"x"', b"[]", b"{}", b"[" * 200 + b"]" * 200, b"1979-05-27", b'"\\u0000"', b"\xff\xfe",
)  # fmt: skip
_NUMBER = re.compile(rb"-?\d+(\.\d+)?([eE][-+]?\d+)?")


def changed(data: bytes, random_: random.Random, text: bool) -> bytes:
    """A file with one to three changes."""
    for _ in range(random_.choice((1, 1, 2, 3))):
        numbers = list(_NUMBER.finditer(data)) if text else []
        at = random_.randrange(len(data) + 1)
        end = min(len(data), at + random_.randint(1, 40))
        what = random_.randrange(12)
        if numbers and what < 6:
            found = random_.choice(numbers)
            data = data[: found.start()] + _number(random_) + data[found.end() :]
        elif what < 8:
            data = data[:at] + bytes(random_.randrange(256) for _ in range(end - at)) + data[end:]
        elif what < 9:
            data = data[:at]
        elif what < 10:
            data = data[:at] + random_.choice(TOKENS) + data[at:]
        elif what < 11:
            data = data[:at] + data[end:]
        else:
            data = data[:at] + data[at:end] * 50 + data[end:]
    return data


def _number(random_: random.Random) -> bytes:
    """Another number, of any magnitude, or something that is none."""
    if random_.random() < 0.3:
        return random_.choice(TOKENS)
    value = 10 ** random_.uniform(-9, 12)
    return b"%d" % int(value) if random_.random() < 0.5 else b"%.6g" % value


class Kind:
    """Good files of one kind, and what reads them."""

    def __init__(
        self, name: str, file: str, data: bytes, read: Callable[[Path], object], text: bool = True
    ) -> None:
        self.name, self.file, self.data, self.read, self.text = name, file, data, read, text


def command(*args: object) -> None:
    """Run a command in this process; raises InputError if it is refused, else what gives a traceback."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        status = errors.run(
            lambda: cli.main([str(a) for a in args], prog_name="deeprecsys", standalone_mode=False)
        )
    lines = said.getvalue().splitlines()
    assert status in (0, 1, 2), status
    assert not status or (lines and lines[-1].startswith("deeprecsys: ")), lines
    assert len(said.getvalue()) < 5000, len(said.getvalue())
    if status == errors.BAD_INPUT:
        raise InputError(lines[-1])


def kinds(folder: Path) -> dict[str, Callable[[], Kind]]:
    """What is tried, by name."""
    good = folder / "good.json"
    good.write_text(json.dumps(PROFILE))
    few = ["--queries", "100"]
    csv = b"".join(b"%d.5,%d\n" % (i, 1 + i % 9) for i in range(30))
    jsonl = b"".join(b'{"arrival_s": %d.5, "size": %d}\n' % (i, 1 + i % 9) for i in range(30))
    built_in = set(POLICIES)
    simulate = ("simulate", "--profile", good, "--rate", "50", *few)

    def run_directory() -> Kind:
        """One file of a run directory; which one, the changed bytes' length says."""
        names = ["config.json", "events.jsonl", "result.json", "machine.json", "trials/bench.parquet"]

        def read(file: Path) -> object:
            target = file.parent / "run"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(RUNS / "bench", target)
            name = random.Random(file.stat().st_size).choice(names)
            data = (target / name).read_bytes()
            (target / name).write_bytes(
                changed(data, random.Random(file.read_bytes()), not name.endswith("parquet"))
            )
            return read_whole_run(target)

        return Kind("run directory", "change", b"0123456789" * 20, read)

    def read_policy(file: Path) -> object:
        """A file by a name of its own: each is imported once."""
        mine = file.with_name(f"mine_{len(list(file.parent.glob('mine_*')))}.py")
        shutil.copy(file, mine)
        try:
            return command(*simulate, "--policy", f"{mine}:Mine")
        finally:
            for name in set(POLICIES) - built_in:
                del POLICIES[name]

    def weights() -> Kind:
        import torch

        from deeprecsys.zoo.custom import weights

        torch.save({"a": torch.ones(5, 4), "b.weight": torch.zeros(3)}, folder / "w.pt")
        return Kind(
            "weights", "w.pt", (folder / "w.pt").read_bytes(), lambda f: weights.read(str(f)), text=False
        )

    def safetensors() -> Kind:
        import torch
        from safetensors.torch import save_file

        from deeprecsys.zoo.custom import weights

        save_file({"a": torch.ones(5, 4), "b.weight": torch.zeros(3)}, folder / "w.safetensors")
        data = (folder / "w.safetensors").read_bytes()
        return Kind("safetensors", "w.safetensors", data, lambda f: weights.read(str(f)))

    def exported() -> Kind:
        import torch

        from deeprecsys.zoo.custom import archive
        from tests.custom.test_archive import Small

        path, n = folder / "small.pt2", torch.export.Dim("n")
        example = (torch.arange(5), torch.zeros(5, 2))
        torch.export.save(torch.export.export(Small().eval(), example, dynamic_shapes=({0: n}, {0: n})), path)
        return Kind("archive", "m.pt2", path.read_bytes(), lambda f: archive.load(str(f)))

    def onnx() -> Kind:
        from deeprecsys.zoo.custom.describe import describe
        from tests.files.test_own_code import with_ids_in_columns

        data = with_ids_in_columns(folder).read_bytes()
        return Kind("onnx", "m.onnx", data, lambda f: describe(str(f)), text=False)

    return {
        "profile": lambda: Kind("profile", "p.json", good.read_bytes(), lambda f: command(
            "simulate", "--profile", f, "--rate", "50", "--sla-ms", "50", *few)),
        "trace": lambda: Kind("trace", "t.csv", csv, lambda f: command(*simulate, "--trace", f)),
        "trace-json": lambda: Kind("trace-json", "t.jsonl", jsonl,
                                   lambda f: command(*simulate, "--trace", f)),
        "toml": lambda: Kind("toml", "c.toml", TOML.encode(), lambda f: command(
            "simulate", "--profile", good, "--config", f)),
        "run": run_directory,
        "policy": lambda: Kind("policy", "mine.py", POLICY.encode(), read_policy, text=False),
        "weights": weights,
        "safetensors": safetensors,
        "archive": exported,
        "onnx": onnx,
    }  # fmt: skip


NAMES = (
    "profile",
    "trace",
    "trace-json",
    "toml",
    "run",
    "policy",
    "weights",
    "safetensors",
    "archive",
    "onnx",
)


def read_whole_run(folder: Path) -> None:
    """Read a run directory, and render its text and its page without plots."""
    from deeprecsys.report.html import html
    from deeprecsys.report.page import run_page
    from deeprecsys.report.render import run_text
    from deeprecsys.report.rundir import read_run
    from deeprecsys.report.view import view

    run = read_run(folder)
    seen = view(run)
    run_text(seen).encode("utf-8", "replace")
    html(run_page(run, seen, []))


class HangError(BaseException):
    """A file was read for longer than `HANG_S`."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raise HangError after `HANG_S`."""

    def hang(_signal: int, _frame: object) -> None:
        raise HangError

    signal.signal(signal.SIGALRM, hang)
    signal.alarm(HANG_S)
    try:
        yield
    finally:
        signal.alarm(0)


def left() -> tuple[int, int]:
    """Descriptors that are open, and child processes."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return len(os.listdir("/proc/self/fd")), len(children)


def run(name: str, seed: int, count: int) -> dict[str, Any]:
    """Read `count` changed files of a kind; how many ended how, and the first faults with their seeds."""
    seen: Counter[str] = Counter()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        kind = kinds(folder)[name]()
        file = folder / kind.file
        file.write_bytes(kind.data)
        with contextlib.suppress(InputError), limited():
            kind.read(file)  # loads the modules that files need which are hardly damaged
        before = (0, 0)
        for i in range(count):
            random_ = random.Random(f"{name} {seed + i}")
            file.write_bytes(changed(kind.data, random_, kind.text))
            try:
                with limited():
                    kind.read(file)
                seen["read"] += 1
            except InputError as e:
                seen["refused"] += 1
                if "\n" in str(e):
                    seen["several lines"] += 1
            except HangError:
                seen["hung"] += 1
                faults.append(f"{seed + i}: hung")
            except BaseException as e:  # what would have been a traceback
                seen["traceback"] += 1
                faults.append(f"{seed + i}: {''.join(traceback.format_exception(e)[-2:])}"[-600:])
            if i == min(5, count - 1):  # by then all modules are loaded
                before = left()
        after = left()
    with open("/proc/self/status") as lines:
        peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return {
        "seen": dict(seen), "faults": faults[:20], "descriptors": after[0] - before[0],
        "children": after[1] - before[1], "peak_mb": peak >> 10,
    }  # fmt: skip


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for kind, count in (argument.split("=") for argument in sys.argv[2:]):
        print(json.dumps(run(kind, int(sys.argv[1]), int(count))), flush=True)

"""Loads a user's own model in processes of their own, whose results the node's process receives.

The user's code, torch and the weights stay out of the process that schedules; what they leave behind, in
memory or in threads, goes with the process that needed them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping

from deeprecsys.core.errors import InputError
from deeprecsys.extras import require
from deeprecsys.plugins import reason
from deeprecsys.zoo.custom import sandbox
from deeprecsys.zoo.custom.model import FileKind, Own, parse

_known: dict[str, Own] = {}
_DONE, _REFUSED = b"+", b"-"
"""What a child's answer begins with: the result, or an error for the user."""


def own_model(name: str) -> Own:
    """The user's own model of that name, described once per process.

    Raises:
        InputError: it cannot be loaded or served, and why.
    """
    if name not in _known:
        spec = parse(name)
        require("engine", "a model of your own")
        _known[name] = Own.unpack(_child("describe", spec.text, trusted=spec.kind is FileKind.CLASS))
    return _known[name]


def register(data: bytes) -> Own:
    """Make known to this process what another found out: `Own.pack`."""
    own = Own.unpack(data)
    _known[own.name] = own
    return own


def fill(own: Own, fd: int, offsets: Mapping[str, int]) -> None:
    """Write an own model's tables from its weights into shared memory.

    Args:
        fd: of the memory; offsets: of each table in it, in bytes.

    Raises:
        InputError: the weights are not what they were when the model was described.
    """
    tables = {t.name: (offsets[t.name], t.rows, t.dim, own.keys[t.name]) for t in own.schema.tables}
    trusted = own.kind is FileKind.MODULE and not parse(own.name).weights  # the module makes its weights
    _child("fill", own.name, str(fd), json.dumps(tables), pass_fds=(fd,), trusted=trusted)


def _child(module: str, *args: str, pass_fds: tuple[int, ...] = (), trusted: bool = False) -> bytes:
    """Run a module of this package in a process of its own; the bytes that it writes to its answer.

    Args:
        trusted: it imports the user's own code, and keeps the user's privileges for it.
    """
    where = f"deeprecsys.zoo.custom.{module}"
    start = ["-m", where] if trusted else ["-P", sandbox.__file__, where]
    answer = os.memfd_create("deeprecsys-answer", os.MFD_CLOEXEC)
    try:
        with tempfile.TemporaryFile() as said:
            done = subprocess.run(
                [sys.executable, *start, str(answer), *args],
                pass_fds=(answer, *pass_fds),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                check=False,
            )
            data = os.pread(answer, os.fstat(answer).st_size, 0)
            kind, rest = data[:1], data[1:]
            if kind == _REFUSED:
                raise InputError(rest.decode())
            if done.returncode or kind != _DONE:
                said.seek(0)
                lines = said.read().decode("utf-8", "replace").strip().splitlines() or ["no message"]
                ending = _ending(done.returncode)
                raise InputError(f"model {args[0]}: cannot be loaded: {lines[-1]} ({ending})")
    finally:
        os.close(answer)
    return rest


def child(work: Callable[[], bytes]) -> None:
    """A child's main: does its work, writes the result or the refusal to its first argument, a descriptor."""
    fd = int(sys.argv[1])
    warnings.simplefilter("ignore")
    try:
        _write(fd, _DONE + work())
    except InputError as e:
        _write(fd, _REFUSED + str(e).encode())
    except SystemExit as e:  # of the user's code
        _write(fd, _REFUSED + f"model {sys.argv[2]}: cannot be loaded: {reason(e)}".encode())
    sys.stdout.flush()
    os._exit(0)  # what the user's code leaves behind, threads and exit handlers, has no say any more


def _ending(status: int) -> str:
    return f"ended by signal {-status}" if status < 0 else f"its process ended with exit status {status}"


def _write(fd: int, data: bytes) -> None:
    at = 0
    while at < len(data):
        at += os.pwrite(fd, data[at : at + (1 << 26)], at)

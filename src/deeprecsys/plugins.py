"""What users add from outside: `package.module:Name`, `FILE.py:Name`, or an installed entry point."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from deeprecsys.core.errors import InputError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

RAISED = (Exception, SystemExit)
"""What a user's own code may raise to end a command, and must not."""


_files: set[str] = set()


@cache
def installed(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group that installed distributions declare, by name; none is loaded."""
    from importlib import metadata  # a sixth of a worker's imports: only where a name is not built in

    return {e.name: e for e in metadata.entry_points(group=group)}


def load_installed(what: str, group: str, name: str) -> Any:
    """The object of an installed entry point.

    Raises:
        InputError: it cannot be imported.
    """
    try:
        return installed(group)[name].load()
    except RAISED as e:
        raise InputError(
            f"{what} {name!r}: expected an entry point that can be loaded, got {reason(e)}"
        ) from e


@cache
def load(what: str, text: str) -> Any:
    """The object that `package.module:Name` or `FILE.py:Name` names, imported once per process.

    Args:
        what: what it is to be, for the error: `"engine"`.

    Raises:
        InputError: no such module, file or name.
    """
    where, _, name = text.rpartition(":")
    try:
        return getattr(import_module(where), name)
    except RAISED as e:
        known = isinstance(e, ImportError | AttributeError | FileNotFoundError)
        got = str(e).partition("\n")[0][:400] if known else reason(e)
        raise InputError(
            f"{what} {text!r}: expected an importable module:attribute or FILE.py:Class, got: {got}"
        ) from e


def import_module(where: str) -> ModuleType:
    """A module by its dotted name, or a file `*.py`, its folder on the path as if it were run as a script."""
    if not where.endswith(".py"):
        found = importlib.import_module(where)
        if found.__file__ and not found.__name__.startswith("deeprecsys."):
            _files.add(str(Path(found.__file__).resolve()))
        return found
    path = Path(where)
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    about = importlib.util.spec_from_file_location(path.stem, path)
    assert about is not None
    assert about.loader is not None
    module = importlib.util.module_from_spec(about)
    _files.add(str(path.resolve()))
    sys.modules[path.stem] = module
    about.loader.exec_module(module)
    return module


def reason(error: BaseException) -> str:
    """The first line of an exception's innermost cause, after the cause's type."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[0]}"[:400]


def place(error: BaseException) -> str:
    """Where a user's own code raised an error, or called what did: `FILE, line N`; empty if none did."""
    import traceback  # a worker has no need of it

    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if str(Path(f.filename).resolve()) in _files]
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else ""

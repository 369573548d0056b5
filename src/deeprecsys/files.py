"""The files that users name: regular, of bounded size, JSON of bounded depth and numbers; places to write."""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from deeprecsys.core.errors import InputError
from deeprecsys.core.profile import LatencyProfile

MOST_BYTES = 64 << 20
"""Bytes of a document that is read whole."""
DEEPEST = 50
"""Levels of objects and lists in a JSON document."""
_LARGEST = 1 << 63
_KINDS = (
    (stat.S_ISDIR, "Is a directory"),
    (stat.S_ISFIFO, "Is a pipe"),
    (stat.S_ISSOCK, "Is a socket"),
    (stat.S_ISCHR, "Is a device"),
    (stat.S_ISBLK, "Is a device"),
)


def regular(path: str | Path) -> int:
    """The size of a file in bytes.

    Raises:
        OSError: there is none, or it is no regular file: a device or a pipe may never end.
    """
    try:
        found = os.stat(path)
    except ValueError as e:  # a NUL byte
        raise OSError(str(e)) from e
    if not stat.S_ISREG(found.st_mode):
        raise OSError(next((kind for test, kind in _KINDS if test(found.st_mode)), "Is no regular file"))
    return found.st_size


class OpenFile(NamedTuple):
    """A file that was opened by `open_within`; `identity` differs once its content does."""

    fd: int
    identity: tuple[int, ...]

    def close(self) -> None:
        os.close(self.fd)


def open_within(folder: Path, path: str) -> OpenFile:
    """Open a regular file that lies in a folder, for reading.

    Links are followed as long as they stay in the folder. What is opened is what was checked, even if the
    folder changes meanwhile: no component of the path that was found is a link.

    Args:
        path: relative to the folder, or absolute within it.

    Raises:
        OSError: it lies elsewhere, does not exist, cannot be read, or is no regular file.
    """
    if "\0" in path or ".." in Path(path).parts:
        raise PermissionError(errno.EPERM, "a path with '..' or a NUL byte")
    root = os.path.realpath(folder)
    found = os.path.realpath(os.path.join(root, path))
    if os.path.commonpath([root, found]) != root or found == root:
        raise PermissionError(errno.EPERM, "a path that leads out of it")
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    parts = Path(found).relative_to(root).parts
    for part in parts:
        kind = os.O_RDONLY | os.O_NONBLOCK if part is parts[-1] else os.O_PATH | os.O_DIRECTORY
        try:
            inner = os.open(part, kind | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        finally:
            os.close(fd)
        fd = inner
    stat_ = os.fstat(fd)
    if not stat.S_ISREG(stat_.st_mode):
        os.close(fd)
        raise OSError(next((kind for test, kind in _KINDS if test(stat_.st_mode)), "Is no regular file"))
    return OpenFile(fd, (stat_.st_dev, stat_.st_ino, stat_.st_size, stat_.st_mtime_ns))


def read_bytes(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """A file's content.

    Raises:
        OSError: there is none, it is no regular file, cannot be read, or has more than `most` bytes.
    """
    regular(path)
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(f"more than {most} bytes")
    return data


def read_text(field: str, path: str | Path, expected: str, most: int = MOST_BYTES) -> str:
    """A file's content, in UTF-8.

    Args:
        field: what names the file, for the error: `--profile FILE`; expected: what it is to hold.

    Raises:
        InputError: it cannot be read, or is no text.
    """
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{field}: expected {expected}, got: {first_line(e)}") from e


def read_json(field: str, path: str | Path, expected: str) -> Any:
    """The value of a JSON document. Arguments are those of `read_text`.

    Raises:
        InputError: it cannot be read, is no JSON, is nested deeper than `DEEPEST`, or has a whole number of
            more than 64 bits.
    """
    text = read_text(field, path, expected)
    try:
        return parse_json(text)
    except ValueError as e:
        raise InputError(f"{field}: expected {expected}, got: {first_line(e)}") from e


def read_profile(field: str, path: str | Path) -> LatencyProfile:
    """A latency profile.

    Raises:
        InputError: it cannot be read, or is no profile; begins with `field`.
    """
    data = read_json(field, path, "a latency profile in JSON")
    try:
        return LatencyProfile.from_json(data)
    except InputError as e:
        raise InputError(f"{field}: {e}") from e


def check_place(field: str, path: Path) -> None:
    """See that a file can be written, before its content takes time to make. A file there stays as it is.

    Args:
        field: what names the file, for the error: `--json FILE`.

    Raises:
        InputError: it cannot. A full disk shows only when something is written.
    """
    there = os.path.lexists(path)
    try:
        if path.is_file() or not path.exists():  # opening a pipe would wait for its reader
            path.open("ab").close()
            if not there:
                path.unlink()
        elif path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as e:
        raise InputError(f"{field}: expected a file that can be written, got: {first_line(e)}") from e


def check_folder(field: str, path: Path) -> None:
    """Make a directory, and see that files can be made in it.

    Raises:
        InputError: they cannot.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as e:
        raise InputError(f"{field}: expected a directory that can be written, got: {first_line(e)}") from e


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, is nested deeper than `DEEPEST`, or has a whole number of more than
            64 bits.
    """
    deep = f"more than {DEEPEST} levels of objects and lists"
    try:
        value = json.loads(text, parse_int=_whole)
    except RecursionError as e:
        raise ValueError(deep) from e
    level = [value]
    for _ in range(DEEPEST + 1):
        if not level:
            return value
        level = [
            member
            for each in level
            if isinstance(each, dict | list)
            for member in (each.values() if isinstance(each, dict) else each)
        ]
    raise ValueError(deep)


def _whole(text: str) -> int:
    if len(text) > 20 or not -_LARGEST <= int(text) < _LARGEST:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)


def first_line(error: BaseException) -> str:
    """An error's message in one line; of an `OSError` what happened, without the file."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = text.splitlines() or [type(error).__name__]
    return lines[0][:400]

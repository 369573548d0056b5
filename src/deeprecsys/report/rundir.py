"""A run directory: everything that one command measured, kept as it was made.

    config.json          format and time of the run, and the resolved configuration
    machine.json         where it ran
    events.jsonl         what happened, one JSON object a line, appended as it happens
    trials/NAME.parquet  every query of a trial; trials/NAME.batches.parquet its slices, where recorded
    result.json          the command's final document; absent when it did not come to its end

Every file but the events appears whole or not at all, so a run that is killed leaves what it had.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from deeprecsys.core.errors import InputError
from deeprecsys.core.runlog import RunLog
from deeprecsys.extras import require
from deeprecsys.files import first_line, read_bytes
from deeprecsys.report.document import Document
from deeprecsys.report.json_values import dumps, restored
from deeprecsys.report.slices import BatchTimes, Slices
from deeprecsys.report.trialfile import (
    DamagedError,
    TrialRecord,
    read_queries,
    read_slices,
    write_queries,
    write_slices,
)

VERSION = 1
FORMAT = f"deeprecsys-run/{VERSION}"
_NAME = re.compile(r"[^A-Za-z0-9_.-]+")
_SLICES = ".batches"
MOST_BYTES = 1 << 30
"""Bytes of a file of a run that is read whole."""
LONGEST_NAME = 200
"""Characters of a trial's name: with the ending, what a file system takes."""


class RunWriter:
    """Writes a run directory. A context manager: leaving it notes how the run ended.

    Args:
        path: a new or empty directory; its parents are made too.
        config: the resolved configuration.
        machine: the machine record.

    Raises:
        InputError: the directory has something in it, or cannot be made.
    """

    def __init__(self, path: Path, config: dict[str, Any], machine: dict[str, Any]) -> None:
        require("engine", "a run directory")
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if any(self.path.iterdir()):
                raise InputError(f"run directory {path}: expected a new or an empty one, got one with files")
            (self.path / "trials").mkdir()
        except OSError as e:
            raise InputError(f"run directory {path}: expected one that can be written: {e.strerror}") from e
        self._began_s = time.monotonic()
        head = {"format": FORMAT, "created": datetime.now(UTC).isoformat(timespec="seconds")}
        self._document("config.json", {**head, "config": config})
        self._document("machine.json", machine)
        with self._writing():
            self._events: TextIO = (self.path / "events.jsonl").open("a", encoding="utf-8")
        self._names: set[str] = set()
        self.event({"event": "started", **head})

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.event({"event": "interrupted", "reason": str(error) or type(error).__name__})
        self.close()

    def close(self) -> None:
        """Close the files. Nothing can be written afterwards."""
        with self._writing():
            self._events.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Raise InputError for what the file system refuses: the disk is full, for example."""
        try:
            yield
        except OSError as e:
            raise InputError(
                f"run directory {self.path}: expected room to write, got: {first_line(e)}"
            ) from e

    def event(self, document: dict[str, Any]) -> None:
        """Append one event; it is readable at once. `elapsed_s`, since the run began, is added to it."""
        line = {"elapsed_s": round(time.monotonic() - self._began_s, 6), **document}
        with self._writing():
            self._events.write(dumps(line) + "\n")
            self._events.flush()

    def trial(
        self,
        name: str,
        log: RunLog,
        batches: Iterable[BatchTimes] | Slices | None = None,
        about: dict[str, Any] | None = None,
    ) -> str:
        """Keep a trial's raw records, and note that in the events.

        Args:
            name: what to call it; reports know `static` and `tuned`. Taken names get a number.
            log: every query.
            batches: the recorded times of every batch, where there are any.
            about: role, policy, engine, seed.

        Returns:
            The name that it got.
        """
        name = trial_name(name, self._names)
        self._names.add(name)
        folder = self.path / "trials"
        with self._writing():
            if batches is not None:
                slices = batches if isinstance(batches, Slices) else Slices.of(batches)
                write_slices(folder / f"{name}{_SLICES}.parquet", slices)
            write_queries(folder / f"{name}.parquet", log, about or {})
        has = {
            "name": name,
            "rate_qps": log.rate_qps,
            "queries": len(log.size),
            "slices": batches is not None,
        }
        self.event({"event": "trial", **(about or {}), **has})
        return name

    def result(self, document: dict[str, Any]) -> None:
        """Keep the final document. Call once, last."""
        self._document("result.json", document)
        self.event({"event": "finished"})

    def _document(self, name: str, document: dict[str, Any]) -> None:
        partial = self.path / f".{name}.partial"
        with self._writing():
            partial.write_text(dumps(document, indent=2) + "\n", encoding="utf-8")
            os.replace(partial, self.path / name)


def trial_name(name: str, taken: Container[str]) -> str:
    """A name for a trial's files, with a number where it is taken."""
    base = _NAME.sub("-", name).strip(".-") or "trial"
    if base.endswith(_SLICES):
        base = base.removesuffix(_SLICES) + "-batches"
    name, number = base, 2
    while name in taken:
        name, number = f"{base}-{number}", number + 1
    return name


class RunHead(Document):
    """What `config.json` and the first event say of a run."""

    format: str | None = None
    created: str | None = None
    config: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Run:
    """A run directory, read back. What could not be read is empty, and listed in `problems`.

    Attributes:
        path: the directory.
        version: of its format; None where unknown.
        created: when it began, ISO 8601; None where unknown.
        config, machine: as they were given.
        events: in order.
        result: the final document; None if there is none.
        trials: by name, in alphabetical order.
        problems: what is missing or damaged, one plain sentence each.
    """

    path: Path
    version: int | None
    created: str | None
    config: dict[str, Any]
    machine: dict[str, Any]
    events: tuple[dict[str, Any], ...]
    result: dict[str, Any] | None
    trials: dict[str, TrialRecord]
    problems: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        return self.path.resolve().name


def read_run(path: Path) -> Run:
    """Read a run directory, as much of it as there is.

    Raises:
        InputError: there is no such directory, or nothing of a run in it.
    """
    path = Path(path)
    if not path.is_dir():
        came = "a file" if path.exists() else "nothing there"
        raise InputError(f"run directory {path}: expected a directory, got {came}")
    parts = ("config.json", "machine.json", "events.jsonl", "result.json", "trials")
    if not any((path / part).exists() for part in parts):
        raise InputError(f"run directory {path}: expected {', '.join(parts)}, got none of them")
    problems: list[str] = []
    head = RunHead.from_json(
        _object(path / "config.json", "the configuration is not known", problems), "config.json"
    )
    problems += head.problems
    events = _events(path / "events.jsonl", problems)
    started = events[0] if events and events[0].get("event") == "started" else {}
    first = RunHead.from_json(started, "events.jsonl")
    version = _version(head.format or first.format, problems)
    machine = _object(path / "machine.json", "where it ran is not known", problems)
    result = _result(path / "result.json", events, problems)
    return Run(
        path=path,
        version=version,
        created=head.created or first.created,
        config=dict(head.config or {}),
        machine=machine,
        events=tuple(events),
        result=result or None,
        trials=_trials(path / "trials", events, problems),
        problems=tuple(problems),
    )


def _version(text: str | None, problems: list[str]) -> int | None:
    found = re.fullmatch(r"deeprecsys-run/(\d{1,9})", text or "")
    if found is None:
        if text:
            problems.append(f"format: expected {FORMAT!r}, got {text!r}; what is understood is shown")
        return None
    version = int(found[1])
    if version > VERSION:
        problems.append(
            f"format: written by a newer deeprecsys (format {version}, this one knows {VERSION}); "
            "what is understood is shown"
        )
    return version


def _object(path: Path, consequence: str, problems: list[str]) -> dict[str, Any]:
    """A JSON object from a file; empty, with a problem noted, where there is none."""
    try:
        value = restored(json.loads(read_bytes(path, MOST_BYTES)))
    except FileNotFoundError:
        problems.append(f"{path.name} is missing: {consequence}")
        return {}
    except (OSError, ValueError, RecursionError) as e:
        problems.append(f"{path.name} is damaged ({str(e)[:120]}): {consequence}")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{path.name} is damaged (expected an object): {consequence}")
        return {}
    return value


def _events(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    try:
        lines = read_bytes(path, MOST_BYTES).split(b"\n")
    except OSError:
        problems.append("events.jsonl is missing: what was measured on the way is not known")
        return []
    events: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = restored(json.loads(line))
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            events.append(value)
        elif number == len(lines):
            problems.append(
                f"events.jsonl is cut short in line {number}: the {number - 1} before it are read"
            )
        else:
            problems.append(f"events.jsonl line {number} is damaged: skipped")
    if not any(line.strip() for line in lines):
        problems.append("events.jsonl is empty: what was measured on the way is not known")
    return events


def _result(path: Path, events: list[dict[str, Any]], problems: list[str]) -> dict[str, Any]:
    cut_off = next((e for e in reversed(events) if e.get("event") == "interrupted"), None)
    why = (
        f"the run was interrupted ({cut_off.get('reason')})" if cut_off else "the run did not come to its end"
    )
    if any(e.get("event") == "finished" for e in events):
        why = "the final figures are not known"
    return _object(path, f"{why}; what was measured until then is shown", problems)


def _trials(folder: Path, events: list[dict[str, Any]], problems: list[str]) -> dict[str, TrialRecord]:
    if not folder.is_dir():
        problems.append("trials/ is missing: no raw records")
        return {}
    found = {p.name.removesuffix(".parquet").removesuffix(_SLICES) for p in folder.glob("*.parquet")}
    noted = {str(e.get("name")): e for e in events if e.get("event") == "trial"}
    for name in [n for n in noted if len(n) > LONGEST_NAME or trial_name(n, ()) != n]:
        problems.append(f"events.jsonl: expected the name of a trial, got {name!r:.40}: skipped")
        del noted[name]
    trials = {}
    for name in sorted(found | noted.keys()):
        record = _trial(folder, name, bool(noted.get(name, {}).get("slices")), problems)
        if record is not None:
            trials[name] = record
    return trials


def _trial(folder: Path, name: str, has_slices: bool, problems: list[str]) -> TrialRecord | None:
    path, batches = folder / f"{name}.parquet", folder / f"{name}{_SLICES}.parquet"
    if not path.is_file():
        problems.append(f"trials/{path.name} is missing: the raw records of that trial are not known")
        return None
    try:
        log, about = read_queries(path)
    except DamagedError as e:
        problems.append(f"trials/{path.name} {e}: skipped")
        return None
    slices = None
    try:
        slices = read_slices(batches, len(log.size)) if batches.is_file() else None
        if has_slices and slices is None:
            problems.append(f"trials/{batches.name} is missing: when its slices ran is not known")
    except DamagedError as e:
        problems.append(f"trials/{batches.name} {e}: when its slices ran is not known")
    return TrialRecord(name, log, slices, about)

"""The frame of every benchmark: its options, its saved result with commit, date and machine, its tables in documents."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deeprecsys.machine.record import machine_record
from deeprecsys.report.json_values import plain, restored

Result = dict[str, Any]
Tables = dict[str, str]
"""Markdown by the marker that it goes to: `MARKER` of a page of results, or `PAGE#MARKER`."""

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PROFILES = ROOT / "profiles"
PAGES = "docs/results/*.md"
SKIPPED = 3
"""Exit status of a script that cannot run here."""


class UnavailableError(Exception):
    """A benchmark cannot run here, and why."""


def scripts() -> list[str]:
    """Every script, as FOLDER.NAME."""
    files = sorted((ROOT / "benchmarks").glob("*/*.py"))
    return [f"{f.parent.name}.{f.stem}" for f in files if f.parent.name != "lib" and f.stem != "__init__"]


def commit(tree: Path = ROOT) -> str:
    """The commit that is checked out, and whether the tree differs from it."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def stated(result: Mapping[str, Any]) -> Result:
    """A result with commit, date and machine, as it is read back once it is saved."""
    about = {"commit": commit(), "date": datetime.now(UTC).date().isoformat(), "machine": machine_record()}
    found: Result = restored(json.loads(json.dumps(plain({**about, **result}))))
    return found


def load(name: str) -> Result:
    """A saved result; empty where there is none."""
    path = RESULTS / f"{name}.json"
    found: Result = restored(json.loads(path.read_text())) if path.exists() else {}
    return found


def measured_on(machine: Mapping[str, Any]) -> str:
    """The machine in words, for the foot of a table."""
    return f"Measured on {machine['cpu']} ({', '.join(machine['isa'])}), {machine['cores']} cores"


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table."""
    lines = ["".join(f"| {c} " if str(c) else "| " for c in row) + "|" for row in (header, *rows)]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])


def put(tables: Mapping[str, str], dry: bool = False) -> None:
    """Replace what stands between `<!-- MARKER -->` and `<!-- /MARKER -->` of each table's page.

    Args:
        dry: only see that the markers are there.
    """
    for place, body in tables.items():
        page, _, marker = place.rpartition("#")
        begin, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
        pages = ROOT.glob(page or PAGES)
        path = next((p for p in sorted(pages) if begin in (text := p.read_text()) and end in text), None)
        if path is None:
            raise SystemExit(f"{page or PAGES}: expected the markers {begin} and {end}")
        text = path.read_text()
        head, rest = text.split(begin, 1)
        if not dry:
            path.write_text(f"{head}{begin}\n{body.strip()}\n{end}{rest.split(end, 1)[1]}")


@dataclass
class Run:
    """One run of a benchmark.

    Attributes:
        name: of the saved result.
        options: of the command line.
        quick: only see that it works.
        result: saved before, or by this run so far.
        measured: whether this run has a result.
        failed: parts that ended with an error; `--more` tries them again.
    """

    name: str
    options: argparse.Namespace
    result: Result = field(default_factory=dict)
    measured: bool = False
    failed: list[str] = field(default_factory=list)

    @property
    def quick(self) -> bool:
        return bool(self.options.quick)

    def save(self, result: Mapping[str, Any]) -> None:
        """Write a result with commit, date and machine; a quick run only keeps it."""
        self.result, self.measured = stated(result), True
        if not self.quick:
            RESULTS.mkdir(exist_ok=True)
            path = RESULTS / f"{self.name}.json"
            half = path.with_suffix(".tmp")  # an interrupt leaves the former result
            half.write_text(json.dumps(plain(self.result), indent=1) + "\n")
            half.replace(path)

    def tried(self, name: str, measure: Callable[..., Any], *args: Any) -> Any:
        """What a part of the run found; None where it failed: then the run goes on with the others.

        A quick run ends with the error instead.
        """
        try:
            return measure(*args)
        except UnavailableError:
            raise
        except (Exception, SystemExit) as e:
            if self.quick:
                raise
            self.failed.append(name)
            print(f"{name}: failed: {e!r}", flush=True)
            return None

    def each(
        self,
        keys: Iterable[tuple[str, ...]],
        measure: Callable[..., Any],
        *,
        seconds: float = float("inf"),
        **about: Any,
    ) -> None:
        """Measure one key after the other, and save after each: an interrupted run goes on with `--more`.

        A key begins with a model; of these the asked ones are measured, by default all, by a quick run the
        first key. Others keep what was saved.

        Args:
            measure: called with a key; None is a key that could not be measured.
            seconds: after which no key is begun any more.
            about: what else is saved.
        """
        models: Result = {} if self.quick else self.result.get("models", {})
        asked = [k for k in keys if not self.options.models or k[0] in self.options.models]
        began, left, todo = time.monotonic(), [], []
        for *path, last in asked[:1] if self.quick else asked:
            entry = models
            for k in path:
                entry = entry.setdefault(k, {})
            if not (self.options.more and last in entry):
                todo.append((" ".join((*path, last)), (*path, last), entry))
        for n, (name, key, entry) in enumerate(todo):
            if time.monotonic() - began > seconds:
                left.append(name)
                continue
            start = time.monotonic()
            found = self.tried(name, measure, *key)
            if found is not None:
                entry[key[-1]] = found
                self.save({**about, "models": models})
                now = time.monotonic()
                more_s = (now - began) / (n + 1) * (len(todo) - n - 1)
                took = f"({now - start:.0f} s; {n + 1} of {len(todo)}, about {duration(more_s)} left)"
                print(name, figures(found), took, flush=True)
        if left:
            print("left for --more:", ", ".join(left))


def now() -> str:
    """The time of day, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def duration(seconds: float) -> str:
    """How long, in words, for a line of progress."""
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def figures(found: Any) -> str:
    """The numbers that stand at the top of a result."""
    numbers = found.items() if isinstance(found, Mapping) else ()
    return ", ".join(f"{k} {v:.4g}" for k, v in numbers if isinstance(v, int | float) and k != "wall_s")


@dataclass(frozen=True)
class Benchmark:
    """A script.

    Attributes:
        file, doc: path and docstring of its module.
        measure: runs it; what it returns is saved, unless it saved itself.
        tables: what goes into documents, of the saved result.
        models: that may be named on the command line; all by default.
        options: further ones, as `add_argument` takes them, by name.
        finish: what is written besides, of the saved result.
        resumes: a run without models that goes on with `--more`, too.
    """

    file: str
    doc: str | None
    measure: Callable[[Run], Mapping[str, Any] | None]
    tables: Callable[[Result], Tables] | None = None
    models: Sequence[str] = ()
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    finish: Callable[[Result], None] | None = None
    resumes: bool = False

    @property
    def name(self) -> str:
        """The name of the saved result: FOLDER_SCRIPT."""
        path = Path(self.file)
        return path.stem if path.parent.name == "benchmarks" else f"{path.parent.name}_{path.stem}"

    def main(self, argv: Sequence[str] | None = None) -> None:
        """Run from the command line."""
        run = Run(self.name, self._options(argv), load(self.name))
        if run.options.tables and not run.result:
            raise SystemExit(f"{self.name}: no result is saved")
        if not run.options.tables:
            try:
                found = self.measure(run)
            except UnavailableError as reason:
                print(f"{self.name}: skipped: {reason}")
                sys.exit(SKIPPED)
            if found is not None:
                run.save(found)
        if run.failed:
            print(f"failed, and left for --more: {', '.join(run.failed)}")
        if run.failed and not run.measured:
            sys.exit(1)
        if not (run.measured or run.options.tables):
            return
        if self.tables:
            made = self.tables(run.result)
            put(made, dry=run.quick)
            print("\n\n".join(made.values()))
        if self.finish and not run.quick:
            self.finish(run.result)
        if run.failed:
            sys.exit(1)

    def _options(self, argv: Sequence[str] | None) -> argparse.Namespace:
        module = Path(self.file).relative_to(ROOT).with_suffix("").parts
        parser = argparse.ArgumentParser(
            prog=f"python -m {'.'.join(module)}", description=self.doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        if self.models:
            parser.add_argument("models", nargs="*", metavar="MODEL", help="by default all")
        if self.models or self.resumes:
            parser.add_argument("--more", action="store_true", help="only what is not measured yet")
        parser.add_argument("--quick", action="store_true", help="see that it works; writes nothing")
        for name, how in self.options.items():
            parser.add_argument(name, **how)
        text = "write the tables from the saved result" if self.tables else argparse.SUPPRESS
        parser.add_argument("--tables", action="store_true", help=text)
        options = parser.parse_args(argv)
        if unknown := set(getattr(options, "models", ())) - set(self.models):
            parser.error(f"expected models of {', '.join(self.models)}; got {', '.join(sorted(unknown))}")
        return options

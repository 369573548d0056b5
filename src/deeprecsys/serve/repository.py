"""Which weights are served, changed from outside: the protocol's repository extension, from a folder.

Weights are files of tensors (safetensors) below one directory that is named at the start, by their paths or
as `MODEL/VERSION/weights.safetensors`; `dense.safetensors` there has the dense stage alone, and the tables
stay. The verbs are off without that directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError, NodeError
from deeprecsys.files import OpenFile, open_within
from deeprecsys.node.runtime.tables import Weights
from deeprecsys.node.service.backend import READY, Reason, RefusedError, ServedModel
from deeprecsys.node.service.row_updates import NewRows
from deeprecsys.serve.addresses import Admin
from deeprecsys.serve.metrics.counters import Counters, LoadRecord
from deeprecsys.serve.protocol.errors import (
    ConflictError,
    ForbiddenError,
    NotFoundError,
    RequestError,
    UnauthorizedError,
    shown,
)
from deeprecsys.zoo import model as zoo_model
from deeprecsys.zoo.custom.model import FileKind, Own
from deeprecsys.zoo.tensor_file import TensorFile, table_keys

log = logging.getLogger("deeprecsys.serve")

ALL, DENSE = "weights.safetensors", "dense.safetensors"
"""Names of a version's file in the directory laid out by versions: of all weights; of the dense stage's."""
IDS, VALUES = ".ids", ".values"
"""What the two tensors of a table's new rows are called, after the table's name."""
MOST_PARAMETERS_BYTES, MOST_ROWS_BYTES = 1 << 16, 16 << 20
"""The largest body of a load; of new rows."""
AGAIN_S = 5.0
OFF = "repository: expected a server that was started with --admin DIR, got one without"
WATCH_S = 1.0
"""Seconds between two looks for new versions."""
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TYPES = {"version": str, "weights": str, "keep_tables": bool, "keep": bool, "config": str}


class Loader(Protocol):
    """What changes weights: `node.service.Service`."""

    @property
    def models(self) -> Mapping[str, ServedModel]: ...

    async def swap(self, model: str, version: str, weights: Weights, *, keep: bool = False) -> None: ...

    async def serve_held(self, model: str, version: str, *, keep: bool = False) -> None: ...

    async def unload(self, model: str, version: str = "") -> None: ...

    async def write_rows(self, model: str, rows: Mapping[str, NewRows]) -> int: ...


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a load asks for: a version, the path of its file, "" for one that is held, and how it is taken."""

    version: str
    path: str
    keep_tables: bool
    keep: bool


class Repository:
    """Loads, unloads and updates the weights of a service's models, one call per model at a time."""

    def __init__(self, loader: Loader, counters: Counters, admin: Admin) -> None:
        self._loader, self._counters, self._admin = loader, counters, admin
        self._busy: dict[str, str] = {}  # by model, what goes on
        self._sources: dict[tuple[str, str], tuple[int, ...]] = {}  # the files of versions, as they were
        self._tasks: set[asyncio.Task[Any]] = set()

    def authorise(self, authorization: str, origin: str = "") -> None:
        """Raise unless a request may change weights.

        Args:
            authorization: its header of that name; origin: of the page that has sent it.

        Raises:
            ForbiddenError: a page has. UnauthorizedError: its token is not ours.
        """
        if not self._admin.verbs:
            raise ForbiddenError(OFF)
        if origin:
            raise ForbiddenError(
                f"Origin: expected none, as pages may not change weights, got {shown(origin)}"
            )
        wanted = f"Bearer {self._admin.token}" if self._admin.token else ""
        if wanted and not hmac.compare_digest(authorization.encode(), wanted.encode()):
            raise UnauthorizedError(
                "Authorization: expected Bearer and the token of --admin-token, got another"
            )

    async def load(self, model: str, parameters: Mapping[str, Any]) -> str:
        """Have a version serve, loaded first unless it is held; returns which. If it serves, nothing happens.

        Args:
            parameters: of the request: `version`, `weights` (a path), `keep_tables`, `keep` (the version
                before), or `config`, a model configuration with these.

        Raises:
            RequestError: it cannot be loaded, and why; what served before serves on. RefusedError: as workers
                could not start with it, or the server stops.
        """
        self._known(model)
        began_s, version = time.monotonic(), ""
        try:
            given = _parameters(parameters)
            version = given.get("version", "")
            wanted = await asyncio.to_thread(self._wanted, model, given)
            version = wanted.version
            await self._alone(model, f"a load of version {version}", lambda: self._load(model, wanted))
        except (RequestError, RefusedError) as e:
            self._record(model, version, str(e), began_s)
            raise
        self._record(model, version, "", began_s)
        return version

    async def unload(self, model: str, parameters: Mapping[str, Any]) -> None:
        """Drop a version that is held, or all: the model refuses queries until a load. Raises as `load`."""
        self._known(model)
        version = _typed({k: v for k, v in parameters.items() if k != "unload_dependents"}).get("version", "")
        if version or self._loader.models[model].version in _held(self._loader.models[model]):
            await self._alone(model, "an unload", lambda: self._loader.unload(model, version))

    async def write_rows(self, model: str, arrays: Mapping[str, NDArray[Any]], path: str = "") -> int:
        """Write rows of the tables that serve: of some arrays by name, or of a file of the directory.

        Args:
            arrays: `TABLE.ids` [n] and `TABLE.values` [n, dim] for each table.

        Returns:
            How many rows.

        Raises:
            RequestError: they are not rows of the model's tables. RefusedError: try again.
        """
        self._known(model)
        try:
            found = await asyncio.to_thread(self._rows_of, path) if path else arrays
            count = await self._loader.write_rows(model, new_rows(found))
        except InputError as e:
            raise RequestError(str(e)) from e
        except NodeError as e:
            raise RefusedError(Reason.OVERLOAD, str(e), AGAIN_S) from e
        self._counters.rows_written(model, count)
        return count

    async def watch(self) -> None:
        """Load versions of higher numbers as they appear in the directory, until it is cancelled.

        A version must appear whole, as by a rename. One that is refused is tried again once its file changes.
        """
        tried: dict[str, object] = {}
        while self._admin.watch:
            for model in list(self._loader.models):
                version, served = (
                    await asyncio.to_thread(self.newest, model),
                    self._loader.models[model].version,
                )
                if not version or (served.isdecimal() and int(version) <= int(served)):
                    continue
                if (state := await asyncio.to_thread(self._state, model, version)) == tried.get(model):
                    continue
                tried[model] = state
                try:
                    await self.load(model, {"version": version})
                except ConflictError:
                    del tried[model]
                except (RequestError, RefusedError):
                    pass  # recorded
            await asyncio.sleep(WATCH_S)

    def _state(self, model: str, version: str) -> object:
        found = []
        for name in (ALL, DENSE):
            with contextlib.suppress(OSError):
                s = os.stat(self._admin.directory / model / version / name)
                found.append((name, s.st_ino, s.st_size, s.st_mtime_ns))
        return version, found

    def newest(self, model: str) -> str:
        """The version of the highest number in the model's folder of the directory, or ""."""
        folder = self._admin.directory / model
        try:
            names = [n for n in os.listdir(folder) if n.isdecimal() and n.isascii() and len(n) < 20]
        except OSError:
            return ""
        full = [n for n in names if any((folder / n / file).is_file() for file in (ALL, DENSE))]
        return max(full, key=int, default="")

    def _known(self, model: str) -> None:
        if model not in self._loader.models:
            raise NotFoundError(f"model {shown(model)}: expected one of {', '.join(self._loader.models)}")

    def _wanted(self, model: str, given: Mapping[str, Any]) -> _Wanted:
        """What a load means. It looks at the directory, but opens nothing."""
        version, path = given.get("version", ""), given.get("weights", "")
        keep_tables, keep = given.get("keep_tables", False), given.get("keep", False)
        served = self._loader.models[model]
        if not path and not version:
            version = self.newest(model) or (served.version if served.version in _held(served) else "")
            if not version:
                raise RequestError(
                    f"model {model!r}: expected a version or weights, as {model}/VERSION/{ALL} does not exist"
                )
        if path and not version:
            version = Path(path).parent.name
            if not version.isdecimal():
                raise RequestError(
                    "version: expected one with weights whose folder is not a version's, got none"
                )
        if not _VERSION.fullmatch(version):
            raise RequestError(f"version: expected letters, digits, '.', '_' and '-', got {shown(version)}")
        if not path:
            folder = f"{model}/{version}"
            dense = not (self._admin.directory / folder / ALL).exists()
            if dense and not (self._admin.directory / folder / DENSE).exists():
                if version in _held(served):
                    return _Wanted(version, "", False, keep)
                raise RequestError(
                    f"version: expected one that is held ({', '.join(_held(served)) or 'none'}) or a file "
                    f"{folder}/{ALL} in the directory of --admin, got {shown(version)}"
                )
            path, keep_tables = f"{folder}/{DENSE if dense else ALL}", keep_tables or dense
        return _Wanted(version, path, keep_tables, keep)

    async def _load(self, model: str, wanted: _Wanted) -> None:
        held = wanted.version in _held(self._loader.models[model])
        if not wanted.path:
            await self._loader.serve_held(model, wanted.version, keep=wanted.keep)
            return
        with closing(await asyncio.to_thread(self._open, wanted.path)) as file:
            key = model, wanted.version
            if held and self._sources.get(key) == file.identity:
                await self._loader.serve_held(model, wanted.version, keep=wanted.keep)
                return
            if held:
                got = shown(wanted.version)
                raise ConflictError(f"version: expected one that is not held, got {got}, of other weights")
            served = self._loader.models[model]
            known = zoo_model(str(served.config["model"]))
            tensors = TensorFile(file.fd, f"weights {wanted.path}")
            keys = known.keys if isinstance(known, Own) else {}
            tables = table_keys([t.name for t in served.schema.tables], tensors.tensors, keys)
            weights = weights_of(tensors, tables, wanted.keep_tables)
            if not weights.dense and not (isinstance(known, Own) and known.kind is not FileKind.CLASS):
                raise RequestError(
                    f"{tensors.where}: expected weights of the dense stage too, got tables alone"
                )
            await self._loader.swap(model, wanted.version, weights, keep=wanted.keep)
            self._sources[key] = file.identity
        held_now = {(model, v) for v in _held(self._loader.models[model])}
        self._sources = {k: v for k, v in self._sources.items() if k[0] != model or k in held_now}

    def _open(self, path: str) -> OpenFile:
        try:
            return open_within(self._admin.directory, path)
        except OSError as e:
            what = e.strerror or str(e)
            raise RequestError(
                f"weights {shown(path)}: expected a file in the directory of --admin, got: {what}"
            ) from e

    def _rows_of(self, path: str) -> dict[str, NDArray[Any]]:
        with closing(self._open(path)) as file:
            found = TensorFile(file.fd, f"rows {path}")
            if sum(t.size for t in found.tensors.values()) > MOST_ROWS_BYTES:
                raise RequestError(f"rows {shown(path)}: expected at most {MOST_ROWS_BYTES} bytes, got more")
            return found.all_of()

    async def _alone(self, model: str, what: str, do: Callable[[], Any]) -> None:
        """Do something to a model that nothing else is done to. It goes on if the caller is cancelled."""
        if model in self._busy:
            raise ConflictError(
                f"model {model!r}: expected nothing else to go on, got {self._busy[model]}: try again"
            )
        self._busy[model] = what
        task = asyncio.ensure_future(do())
        self._tasks.add(task)

        def ended(done: asyncio.Task[Any]) -> None:
            del self._busy[model]
            self._tasks.discard(done)
            if not done.cancelled():
                done.exception()  # seen, whether or not anybody waits

        task.add_done_callback(ended)
        try:
            await asyncio.shield(task)
        except RequestError:
            raise
        except InputError as e:
            raise RequestError(str(e)) from e
        except NodeError as e:
            raise RefusedError(Reason.NOT_READY, str(e), AGAIN_S) from e

    def _record(self, model: str, version: str, refused: str, began_s: float) -> None:
        now_s = time.monotonic()
        if refused:
            log.warning("%s: a load of version %s was refused: %s", model, version, refused)
        self._counters.load_ended(model, LoadRecord(version, refused, now_s - began_s, now_s))


def weights_of(file: TensorFile, keys: Mapping[str, str], keep_tables: bool) -> Weights:
    """The weights in a file: those of tables, and all else of the dense stage.

    Args:
        keys: by table.

    Raises:
        InputError: a table is missing, or there are some where tables are kept.
    """
    there = [key for key in keys.values() if key in file.tensors]
    if keep_tables:
        if there:
            raise InputError(
                f"{file.where}: expected no tables, as those in service are kept, got {there[0]!r}"
            )
    else:
        for key in keys.values():
            file.expect(key, (None, None))
    dense = [key for key in file.tensors if key not in there]

    def fill(into: Mapping[str, NDArray[Any]]) -> None:
        for name, rows in into.items():
            file.expect(keys[name], rows.shape)
        for name, rows in into.items():
            file.read_into(keys[name], rows)

    return Weights(
        fill=None if keep_tables else fill,
        dense=(lambda: file.copy_of(dense)) if dense else None,
        keep_tables=keep_tables,
    )


def new_rows(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NewRows]:
    """New rows by table, from `TABLE.ids` and `TABLE.values`.

    Raises:
        RequestError: another name, a missing one, or numbers of another kind or shape.
    """
    found = {}
    for name in arrays:
        table, dot, what = name.rpartition(".")
        if not table or dot + what not in (IDS, VALUES):
            raise RequestError(f"rows: expected tensors TABLE{IDS} and TABLE{VALUES}, got {shown(name)}")
        ids, values = arrays.get(table + IDS), arrays.get(table + VALUES)
        if ids is None or values is None:
            wanted = f"{shown(table + IDS)} and {shown(table + VALUES)}"
            raise RequestError(f"rows: expected {wanted}, got {shown(name)} alone")
        if ids.ndim != 1 or ids.dtype.kind != "i":
            raise RequestError(
                f"{table + IDS!r}: expected whole numbers [rows], got {ids.dtype} {list(ids.shape)}"
            )
        if values.ndim != 2 or values.dtype.kind != "f":
            raise RequestError(
                f"{table + VALUES!r}: expected floating-point numbers [rows, dim], got {values.dtype} "
                f"{list(values.shape)}"
            )
        with np.errstate(over="ignore"):
            found[table] = NewRows(ids.astype(np.int64), values.astype(np.float32))
    return found


def _held(model: ServedModel) -> list[str]:
    return [v.version for v in model.held if v.state == READY]


def _parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a load, those in its `config` included."""
    if files := [name for name in parameters if name.startswith("file:")]:
        raise RequestError(
            f"parameter {shown(files[0])}: expected none, as weights are read from --admin's directory"
        )
    given = _typed(parameters)
    if text := given.pop("config", ""):
        given = _typed(_of_config(text)) | given
    return given


def _typed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in parameters.items():
        if name not in _TYPES:
            raise RequestError(f"parameter {shown(name)}: expected one of {', '.join(_TYPES)}")
        if type(value) is not _TYPES[name]:
            kind = "true or false" if _TYPES[name] is bool else "a string"
            raise RequestError(f"parameter {name}: expected {kind}, got {shown(value)}")
    return dict(parameters)


def _of_config(text: str) -> dict[str, Any]:
    """What a model configuration of Triton's says of a load: one specific version, and string parameters."""
    try:
        doc = json.loads(text)
        found = {k: v["string_value"] for k, v in doc.get("parameters", {}).items() if k in _TYPES}
        versions = doc.get("version_policy", {}).get("specific", {}).get("versions", [])
    except (ValueError, RecursionError, AttributeError, TypeError, KeyError) as e:
        raise RequestError(
            f"parameter config: expected a model configuration in JSON, got {shown(text)}"
        ) from e
    if len(versions) > 1:
        raise RequestError(f"parameter config: expected one version, got {shown(versions)}")
    for name in ("keep", "keep_tables"):
        if name in found:
            found[name] = found[name] == "true"
    return ({"version": str(versions[0])} if versions else {}) | found

"""A backend without a node whose weights can be changed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from deeprecsys.node.service.backend import READY, HeldVersion
from deeprecsys.node.service.row_updates import check_rows
from deeprecsys.serve.addresses import Admin
from deeprecsys.serve.repository import Repository
from tests.serve.asgi import Direct
from tests.serve.stand_in import StandIn


class Loader(StandIn):
    """Takes what it is told to, once `go` is set."""

    go: asyncio.Event | None = None
    error: Exception | None = None

    @classmethod
    def ready_to_load(cls) -> Loader:
        made = cls.of()
        for name, m in made.models.items():
            made.models[name] = replace(m, held=(HeldVersion("1", READY),), config={"model": "ncf"})
        return made

    async def swap(self, model: str, version: str, weights: Any, *, keep: bool = False) -> None:
        if self.go:
            await self.go.wait()
        if self.error:
            raise self.error
        self._serve(model, version, keep)

    async def serve_held(self, model: str, version: str, *, keep: bool = False) -> None:
        self._serve(model, version, keep)

    async def unload(self, model: str, version: str = "") -> None:
        held = tuple(v for v in self.models[model].held if version and v.version != version)
        self.models[model] = replace(self.models[model], held=held)

    async def write_rows(self, model: str, rows: Mapping[str, Any]) -> int:
        for name, new in rows.items():
            check_rows(self.models[model].schema, name, new)
        return sum(len(new.ids) for new in rows.values())

    def _serve(self, model: str, version: str, keep: bool) -> None:
        before = self.models[model]
        held = before.held if keep else ()
        held = (*(v for v in held if v.version != version), HeldVersion(version, READY))
        self.models[model] = replace(before, version=version, held=held)


def http(loader: Loader, admin: Admin | None) -> Direct:
    """The HTTP application over it."""
    direct = Direct(loader)
    if admin:
        direct.frontend._repository = Repository(loader, direct.watch, admin)
    return direct

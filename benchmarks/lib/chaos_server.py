"""`serve` with what a chaos run does to it from inside: few descriptors, new weights, a full disk.

`python -m benchmarks.lib.chaos_server OPTIONS` takes the options of `deeprecsys.serve` as JSON, and `descriptors`:
how many its process may have. Commands come by standard input, one a line: `swap MODEL VERSION SEED`,
`disk full`, `disk free`. It prints what comes of them, one JSON object a line.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from typing import Any

import deeprecsys.api.serve as serving
from deeprecsys.node.runtime.tables import Weights
from deeprecsys.node.service.service import Service
from deeprecsys.serve.metrics.logs import log_as_json


def say(**document: Any) -> None:
    print(json.dumps(document), flush=True)


class CommandedService(Service):
    """A service that does what its process's standard input says."""

    @classmethod
    async def start(cls, *args: Any, **kwargs: Any) -> Service:
        service = await super().start(*args, **kwargs)
        assert isinstance(service, CommandedService)
        service._log, service._full = os.dup(2), os.open("/dev/full", os.O_WRONLY)
        service._tasks, service._text = set[asyncio.Task[None]](), b""
        asyncio.get_running_loop().add_reader(0, service._read)
        return service

    def _read(self) -> None:
        self._text += (data := os.read(0, 1 << 16))
        if not data:
            asyncio.get_running_loop().remove_reader(0)
        *lines, self._text = self._text.split(b"\n")
        for line in lines:
            match line.decode().split():
                case ["swap", model, version, seed]:
                    task = asyncio.create_task(self._swap(model, version, int(seed)))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                case ["disk", "full"]:
                    os.dup2(self._full, 2)
                case ["disk", "free"]:
                    os.dup2(self._log, 2)

    async def _swap(self, model: str, version: str, seed: int) -> None:
        began, error = time.monotonic(), ""
        try:
            await self.swap(model, version, Weights(seed))
        except Exception as e:
            error = f"{type(e).__name__}: {e}"
        say(swap=model, version=version, error=error, seconds=time.monotonic() - began)


def main() -> None:
    options = json.loads(sys.argv[1])
    descriptors = options.pop("descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    log_as_json()
    serving.Service = CommandedService  # type: ignore[misc]
    serving.serve(
        **options,
        announce=lambda point: say(point=point),
        ready=lambda listening: say(url=listening.url, grpc=listening.grpc),
        progress=None,
    )


if __name__ == "__main__":
    main()

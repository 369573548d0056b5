"""A server in the background: `serve` in a process of its own, for scripts, notebooks and tests.

That process is `python -m deeprecsys.api.server_process PARENT`: the options come pickled on its standard
input, and its standard output has one JSON object a line.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from deeprecsys.api.serve import DRAIN_S, Listening, serve
from deeprecsys.core.errors import InputError, NodeError
from deeprecsys.node.runtime.cores import die_with_parent
from deeprecsys.serve.metrics.logs import log_as_json


class ServerProcess:
    """A server in a process of its own while its context lasts; leaving the context drains it.

        with dr.ServerProcess("wnd", sla_ms=25) as server:
            print(server.url)

    Args:
        model: one model, or several.
        log: the file of the server's log, JSON lines; by default there is none.
        options: those of `serve`; ports are free ones by default.

    Attributes:
        url: of HTTP; grpc: HOST:PORT of gRPC; pid: of the server's process.
        points: the operating points that it began with, as text.

    Raises:
        InputError, NodeError: those of `serve`, on entering.
    """

    def __init__(self, model: str | Sequence[str], *, log: str | Path | None = None, **options: Any) -> None:
        self._options = {"http_port": 0, "grpc_port": 0, "drain": DRAIN_S, **options, "model": model}
        self._log = Path(log or os.devnull)
        self.url = self.grpc = ""
        self.points: list[str] = []

    def __enter__(self) -> ServerProcess:
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "deeprecsys.api.server_process", str(os.getpid())],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        self.pid = self._process.pid
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def _start(self) -> None:
        """Send the options, and wait until the server takes requests."""
        assert self._process.stdin
        assert self._process.stdout
        with self._process.stdin as options:
            pickle.dump(self._options, options)
        for line in self._process.stdout:
            match json.loads(line):
                case {"point": point}:
                    self.points.append(point)
                case {"url": url, "grpc": grpc}:
                    self.url, self.grpc = url, grpc
                    return
                case {"error": message, "input": wrong}:
                    raise InputError(message) if wrong else NodeError(message)
        raise NodeError(f"the server ended before it took requests; its log is {self._log}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Answer the open queries, and end the process."""
        self._process.terminate()
        try:
            self._process.wait(self._options["drain"] + DRAIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        with self._process:  # closes its pipes and waits
            pass


def main() -> None:
    """The server's process."""
    die_with_parent(int(sys.argv[1]), signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which drains this process
    log_as_json()

    def say(**document: Any) -> None:
        print(json.dumps(document), flush=True)

    def ready(listening: Listening) -> None:
        say(url=listening.url, grpc=listening.grpc)

    try:
        serve(
            **pickle.load(sys.stdin.buffer),
            announce=lambda point: say(point=point),
            ready=ready,
            progress=None,
        )
    except (InputError, NodeError) as e:
        say(error=str(e), input=isinstance(e, InputError))


if __name__ == "__main__":
    main()

"""Checks of the extra `serve`; importing this module needs none of it."""

from __future__ import annotations

import os
from importlib.util import find_spec

from deeprecsys.core.errors import InputError

MODULES = ("grpc", "httptools", "orjson", "prometheus_client", "tritonclient", "uvicorn", "uvloop")


def require_extra() -> None:
    """Raise InputError, with what to do, unless the extra `serve` is installed."""
    missing = [name for name in MODULES if find_spec(name) is None]
    if missing:
        raise InputError(
            f"the network face needs {', '.join(missing)}: install them with pip install 'deeprecsys[serve]'"
        )


def without_fork_handlers() -> None:
    """Turn off gRPC's fork handlers, before it is imported.

    Workers are started by fork and exec while its threads run, and use no gRPC; the handlers could only log
    that they were skipped.
    """
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

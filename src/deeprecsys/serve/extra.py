"""Whether what the network face needs is installed; importing this needs none of it."""

from __future__ import annotations

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

"""DeepRecSys: recommendation models at the highest load a tail-latency target allows.

    import deeprecsys as dr

    found = dr.tune("wnd", sla_ms=25)
    print(found.tuned.qps, found.tuned.p95_ms)

The public names are those of `deeprecsys.api.public`; they are loaded at their first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from deeprecsys.version import VERSION

__version__ = VERSION

if TYPE_CHECKING:
    from deeprecsys.api.public import *  # noqa: F403

# Two packages have the names of public functions. An import of a package binds its name here only the first
# time, so both are imported once, and their names given back to `__getattr__`.
for _package in ("serve", "simulate"):
    import_module(f"deeprecsys.{_package}")
    del globals()[_package]


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return __dir__()
    if name.startswith("_") or name not in (public := vars(import_module("deeprecsys.api.public"))):
        raise AttributeError(f"module 'deeprecsys' has no attribute {name!r}")
    value = globals()[name] = public[name]
    return value


def __dir__() -> list[str]:
    return [name for name in vars(import_module("deeprecsys.api.public")) if not name.startswith("_")]

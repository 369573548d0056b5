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
    if name.startswith("_") and name != "__all__":
        raise AttributeError(f"module 'deeprecsys' has no attribute {name!r}")
    public = import_module("deeprecsys.api.public")
    if name != "__all__" and name not in public.__all__:
        raise AttributeError(f"module 'deeprecsys' has no attribute {name!r}")
    value = globals()[name] = getattr(public, name)
    return value


def __dir__() -> list[str]:
    return [*import_module("deeprecsys.api.public").__all__, "__version__"]

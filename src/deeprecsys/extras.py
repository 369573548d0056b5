"""The distribution's extras: the modules of each, and the one line that names an extra that is missing.

Without extras the core is installed: `models`, `simulate`, `bench --url`.
"""

from __future__ import annotations

from importlib.util import find_spec

from deeprecsys.core.errors import InputError

EXTRAS: dict[str, tuple[str, ...]] = {
    "engine": ("google.protobuf", "matplotlib", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "pyarrow",
               "safetensors", "torch"),
    "serve": ("grpc", "orjson", "prometheus_client", "tritonclient", "uvicorn", "uvloop"),
}  # fmt: skip
"""Modules by extra."""


def require(extra: str, what: str) -> None:
    """Check that an extra is installed.

    Args:
        extra: its name. what: needs it, for the message.

    Raises:
        InputError: it is not.
    """
    missing = [name for name in EXTRAS[extra] if not installed(name)]
    if missing:
        raise InputError(
            f"{what} needs {', '.join(missing)}: install {'them' if len(missing) > 1 else 'it'} with "
            f"pip install 'deeprecsys-serve[{extra}]'"
        )


def installed(module: str) -> bool:
    """Whether a module can be imported, without importing it."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its package is missing
        return False

"""Reads files of weights: safetensors, or torch's with nothing but tensors in them."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from deeprecsys.core.errors import InputError

_TORCH = (".pt", ".pth", ".bin", ".ckpt")
_NESTED = ("state_dict", "model_state_dict", "model")


def read(path: str) -> Mapping[str, Tensor]:
    """Tensors by key. They are mapped from the file where its format allows, and read when they are used.

    Raises:
        InputError: another format, or a file with more in it than tensors.
    """
    suffix = Path(path).suffix
    try:
        if suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if suffix in _TORCH:
            return _tensors(path, torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path)))
    except pickle.UnpicklingError as e:
        raise InputError(f"--weights {path}: expected tensors and nothing else, got {_refused(e)}") from e
    except InputError:
        raise
    except Exception as e:
        raise InputError(f"--weights {path}: expected a {suffix} file, got: {str(e).splitlines()[0]}") from e
    raise InputError(f"--weights {path}: expected one of .safetensors, {', '.join(_TORCH)}, got {suffix!r}")


def _is_zip(path: str) -> bool:
    return zipfile.is_zipfile(path)


def _refused(error: pickle.UnpicklingError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "Unsupported" in line or "GLOBAL" in line]
    return lines[0] if lines else "something that would have to be unpickled"


def _tensors(path: str, found: object) -> Mapping[str, Tensor]:
    for key in _NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(t, Tensor) for t in found.values()):
        raise InputError(f"--weights {path}: expected a state dict, got a {type(found).__name__}")
    return found


def table(weights: Mapping[str, Tensor], where: str, name: str, key: str, shape: tuple[int, int]) -> Tensor:
    """The weights of one embedding table: [rows, dim], of a floating-point dtype.

    Raises:
        InputError: no such key, another shape, another kind of number.
    """
    if key not in weights:
        raise InputError(f"{where}: table {name!r}: expected a key {key!r}, got {_some(weights)}")
    found = weights[key]
    if tuple(found.shape) != shape:
        raise InputError(f"{where}: table {name!r}: expected shape {list(shape)}, got {list(found.shape)}")
    if not found.dtype.is_floating_point:
        raise InputError(f"{where}: table {name!r}: expected floating-point numbers, got {found.dtype}")
    return found


def table_key(weights: Mapping[str, Tensor], name: str) -> str:
    """The key under which a table's weights are looked for."""
    return name if name in weights else f"{name}.weight"


def _some(keys: Iterable[str]) -> str:
    """Some of many keys, in words."""
    names = sorted(keys)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "no keys"


def load_dense(stage: torch.nn.Module, weights: Mapping[str, Tensor], where: str, prefix: str) -> set[str]:
    """Set a dense stage's weights; the keys that were used.

    Raises:
        InputError: a key is missing, or has another shape.
    """
    wanted = stage.state_dict()
    for key, value in wanted.items():
        if prefix + key not in weights:
            raise InputError(f"{where}: dense stage: expected a key {prefix + key!r}, got {_some(weights)}")
        if weights[prefix + key].shape != value.shape:
            raise InputError(
                f"{where}: dense stage: {prefix + key!r}: expected shape {list(value.shape)}, "
                f"got {list(weights[prefix + key].shape)}"
            )
    stage.load_state_dict({key: weights[prefix + key] for key in wanted})
    return {prefix + key for key in wanted}


def refuse_rest(weights: Mapping[str, Tensor], used: set[str], where: str) -> None:
    """Raise InputError if the file has weights that nothing asked for: it may be another model's."""
    if rest := set(weights) - used:
        raise InputError(
            f"{where}: expected no keys but those of tables and dense stage, got also {_some(rest)}"
        )

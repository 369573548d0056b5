"""Reads files of weights, and of example inputs: safetensors, or torch's with nothing but tensors in them."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deeprecsys.core.errors import InputError
from deeprecsys.files import first_line
from deeprecsys.zoo.rows import not_finite
from deeprecsys.zoo.tensor_file import TensorFile, listed

_PIECE = 1 << 20  # values converted at once

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
            mapped = zipfile.is_zipfile(path)
            return _tensors(path, torch.load(path, map_location="cpu", weights_only=True, mmap=mapped))
    except pickle.UnpicklingError as e:
        raise InputError(f"--weights {path}: expected tensors and nothing else, got {_refused(e)}") from e
    except InputError:
        raise
    except Exception as e:
        raise InputError(f"--weights {path}: expected a {suffix} file, got: {first_line(e)}") from e
    raise InputError(f"--weights {path}: expected one of .safetensors, {', '.join(_TORCH)}, got {suffix!r}")


def read_example(path: str) -> Tensor | tuple[Any, ...] | dict[str, Any]:
    """Example inputs: tensors in a tuple, a list or a dictionary, or one.

    Raises:
        InputError: another format, or a file with more in it than tensors.
    """
    expected = "expected .pt with tensors alone, .safetensors or .npz"
    suffix = Path(path).suffix
    try:
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        if suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        if suffix in _TORCH:
            found = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(found, Tensor | dict):
                return found
            if isinstance(found, tuple | list):
                return tuple(found)
    except Exception as e:
        raise InputError(f"--example {path}: {expected}, got: {first_line(e)}") from e
    raise InputError(f"--example {path}: {expected}, got {suffix!r}")


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
        raise InputError(f"{where}: table {name!r}: expected a key {key!r}, got {listed(weights)}")
    found = weights[key]
    if found.ndim == 1 and shape[1] == 1:
        found = found[:, None]
    if tuple(found.shape) != shape:
        raise InputError(f"{where}: table {name!r}: expected shape {list(shape)}, got {list(found.shape)}")
    if not found.dtype.is_floating_point:
        raise InputError(f"{where}: table {name!r}: expected floating-point numbers, got {found.dtype}")
    return found


def load_dense(stage: torch.nn.Module, weights: Mapping[str, Tensor], where: str, prefix: str) -> set[str]:
    """Set a dense stage's weights; the keys that were used.

    Raises:
        InputError: a key is missing, has another shape, or values that are not finite.
    """
    wanted = stage.state_dict()
    for key, value in wanted.items():
        if prefix + key not in weights:
            raise InputError(f"{where}: dense stage: expected a key {prefix + key!r}, got {listed(weights)}")
        if weights[prefix + key].shape != value.shape:
            raise InputError(
                f"{where}: dense stage: {prefix + key!r}: expected shape {list(value.shape)}, "
                f"got {list(weights[prefix + key].shape)}"
            )
    used = {prefix + key: weights[prefix + key] for key in wanted}
    check_finite(used, [prefix + key for key, _ in stage.named_parameters()], f"{where}: dense stage")
    stage.load_state_dict({key: used[prefix + key] for key in wanted})
    return set(used)


def load_all(stage: torch.nn.Module, file: TensorFile, prefix: str = "") -> None:
    """Set a dense stage's weights to all that a file has.

    Raises:
        InputError: as `load_dense`, or it has others too.
    """
    found = {key: torch.from_numpy(values) for key, values in file.all_of().items()}
    refuse_rest(found, load_dense(stage, found, file.where, prefix), file.where)


def check_finite(tensors: Mapping[str, Tensor], parameters: Collection[str], where: str) -> None:
    """Raise InputError if a tensor has a NaN, or a parameter an infinite value; constants, as of masks, may.

    Args:
        parameters: keys of the tensors that are parameters.
    """
    for key, tensor in tensors.items():
        if not tensor.dtype.is_floating_point:
            continue
        flat, infinite = tensor.detach().reshape(-1), key in parameters
        pieces = (flat[at : at + _PIECE].float().numpy() for at in range(0, len(flat), _PIECE))
        count = sum(not_finite(piece, infinite) for piece in pieces)
        if count:
            raise InputError(
                f"{where}: {key!r}: expected finite numbers, got {count} that are infinite or NaN, of "
                f"{tensor.numel()}"
            )


def refuse_rest(weights: Mapping[str, Tensor], used: set[str], where: str) -> None:
    """Raise InputError if the file has weights that are not used: it may be another model's."""
    if rest := set(weights) - used:
        raise InputError(
            f"{where}: expected no keys but those of tables and dense stage, got also {listed(rest)}"
        )

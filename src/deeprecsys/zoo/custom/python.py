"""Loads a user's class: `package.module:Class` or `FILE.py:Class`. Runs in workers and children only."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from deeprecsys.core.errors import InputError
from deeprecsys.zoo.custom import weights
from deeprecsys.zoo.custom.base import OwnModel
from deeprecsys.zoo.custom.spec import Spec
from deeprecsys.zoo.schema import Schema

SEED = 0
"""Of a dense stage's weights where no file gives them."""


def own_class(spec: Spec) -> OwnModel:
    """The user's class, instantiated.

    Raises:
        InputError: its module cannot be imported, or it is no `OwnModel` with a schema.
    """
    try:
        module = (
            _file(Path(spec.where)) if spec.where.endswith(".py") else importlib.import_module(spec.where)
        )
    except Exception as e:
        raise InputError(f"model {spec.text}: expected an importable module, got {_said(e)}") from e
    found = getattr(module, spec.attribute, None)
    if found is None:
        raise InputError(f"model {spec.text}: expected a class {spec.attribute!r} in {spec.where}, got none")
    if not (isinstance(found, type) and issubclass(found, OwnModel)):
        kind = f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"
        raise InputError(
            f"model {spec.text}: expected a subclass of deeprecsys.zoo.custom.OwnModel, got {kind}"
        )
    try:
        made = found()
    except Exception as e:
        raise InputError(f"model {spec.text}: expected a class without arguments, got {_said(e)}") from e
    if not isinstance(getattr(made, "schema", None), Schema):
        raise InputError(f"model {spec.text}: expected an attribute `schema` of type Schema, got none")
    return made


def _file(path: Path) -> ModuleType:
    """Import a file, its folder on the path as if it were run as a script."""
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    name = path.stem
    about = importlib.util.spec_from_file_location(name, path)
    assert about is not None
    assert about.loader is not None
    module = importlib.util.module_from_spec(about)
    sys.modules[name] = module
    about.loader.exec_module(module)
    return module


def stage(spec: Spec, made: OwnModel) -> nn.Module:
    """The class's dense stage, evaluating, its weights drawn from `SEED`.

    Raises:
        InputError: it is no module, or does not take the schema's inputs by name.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        try:
            module = made.dense_stage()
        except Exception as e:
            raise InputError(f"model {spec.text}: dense_stage: expected a module, got {_said(e)}") from e
    if not isinstance(module, nn.Module):
        raise InputError(f"model {spec.text}: dense_stage: expected a module, got a {type(module).__name__}")
    names = [i.name for i in made.schema.inputs]
    try:
        inspect.signature(module.forward).bind(**dict.fromkeys(names))
    except TypeError as e:
        wanted = ", ".join(names)
        raise InputError(
            f"model {spec.text}: dense stage: expected forward({wanted}), got one with {e}"
        ) from e
    return module.eval().requires_grad_(False)


def weighted(spec: Spec, made: OwnModel) -> nn.Module:
    """The class's dense stage with its weights from the file, if there is one."""
    module = stage(spec, made)
    if spec.weights:
        weights.load_dense(module, weights.read(spec.weights), f"--weights {spec.weights}", made.dense_prefix)
    return module


def _said(error: Exception) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"

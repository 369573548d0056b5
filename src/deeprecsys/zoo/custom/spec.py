"""How a user's own model is named: `package.module:Class`, `FILE.py:Class`, `FILE.onnx` or `FILE.pt2`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from deeprecsys.core.errors import InputError

FORMS = "package.module:Class, FILE.py:Class, FILE.onnx or FILE.pt2"


class FileKind(StrEnum):
    """What holds the model."""

    CLASS = "class"
    ONNX = "onnx"
    EXPORTED = "pt2"


@dataclass(frozen=True, slots=True)
class Spec:
    """The name of an own model, taken apart.

    Attributes:
        where: a file, or of a class the module or file that defines it.
        attribute: the class; "" of a file.
        weights: the file of a class's weights; "" for none.
    """

    text: str
    kind: FileKind
    where: str
    attribute: str = ""
    weights: str = ""


def is_own(name: str) -> bool:
    """Whether a model's name means a user's own rather than one of the zoo."""
    return ":" in name or "/" in name or Path(name.partition("@")[0]).suffix in (".onnx", ".pt2", ".py")


def with_weights(name: str, weights: str | Path | None) -> str:
    """A model's name with the file of its weights, as one name: `NAME@FILE`.

    Raises:
        InputError: a model that takes no weights.
    """
    if weights is None:
        return name
    if not is_own(name):
        raise InputError(f"--weights: expected a model of your own ({FORMS}), got {name!r}")
    return parse(f"{name}@{weights}").text


def short_name(name: str) -> str:
    """By what clients ask a server for a model: a class's name, or a file's without folder and suffix."""
    if not is_own(name):
        return name
    spec = parse(name)
    return spec.attribute or Path(spec.where).stem


def parse(text: str) -> Spec:
    """The spec of an own model.

    Raises:
        InputError: none of the forms, or a file that is not there.
    """
    name, _, weights = text.partition("@")
    suffix = Path(name).suffix
    if suffix in (".onnx", ".pt2"):
        if weights:
            raise InputError(f"--weights: expected none with {name}, which carries its own, got {weights}")
        return Spec(text, FileKind.ONNX if suffix == ".onnx" else FileKind.EXPORTED, _file("model", name))
    where, _, attribute = name.rpartition(":")
    if not where or not attribute.isidentifier():
        raise InputError(f"model: expected {FORMS}, got {name!r}")
    if "/" in where or where.endswith(".py"):
        _file("model", where)
    if weights:
        _file("--weights", weights)
    return Spec(text, FileKind.CLASS, where, attribute, weights)


def _file(field: str, path: str) -> str:
    if not Path(path).is_file():
        raise InputError(f"{field}: expected a file, got {path}, which is none")
    return path

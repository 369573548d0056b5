"""A model is its file, however the path is written, and whatever characters are in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deeprecsys.api.engines import choices
from deeprecsys.api.served_models import client_names, named, profiles_in
from deeprecsys.core.errors import InputError
from deeprecsys.core.policy import CPU
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.zoo.custom import is_own, same_model, short_name, with_weights
from deeprecsys.zoo.custom.model import FileKind, parse
from tests.files import hostile


def touched(file: Path) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    return str(file)


@pytest.mark.parametrize("name", ["a@b/m.onnx", "m@1.onnx", "x:y@z/m@2.pt2", "a.onnx@b/m.pt2"])
def test_a_path_with_an_at_sign_is_whole(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touched(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for path in (name, str(tmp_path / name)):
        assert is_own(path)
        spec = parse(path)
        assert (spec.where, spec.weights) == (path, "")
        assert spec.kind is (FileKind.ONNX if name.endswith("onnx") else FileKind.EXPORTED)
    with pytest.raises(
        InputError, match=r"--weights: expected none with .*, which carries its own, got w.pt"
    ):
        with_weights(str(tmp_path / name), "w.pt")


@pytest.mark.parametrize("where", ["m.py", "a@b/m.py", "a:b@c/m.py"])
@pytest.mark.parametrize("weights", ["w.pt", "v@2/w@3.safetensors", "v:w@2/w.pt"])
def test_the_file_of_weights_follows_the_class(
    where: str, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched(tmp_path / where)
    touched(tmp_path / weights)
    monkeypatch.chdir(tmp_path)
    spec = parse(with_weights(f"{where}:Model", weights))
    assert (spec.where, spec.attribute, spec.weights) == (where, "Model", weights)
    assert named((f"{where}:Model@{weights}",), None) == (spec.text,)


def test_the_name_is_the_files_not_its_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(touched(tmp_path / "models" / "m.onnx"))
    other = touched(tmp_path / "models" / "n.onnx")
    (tmp_path / "link.onnx").symlink_to(file)
    os.link(file, tmp_path / "hard.onnx")
    monkeypatch.chdir(tmp_path)
    for name in ("models/m.onnx", "./models/../models/m.onnx", "link.onnx", "hard.onnx"):
        assert same_model(name, str(file))
        assert same_model(str(file), name)
    assert not same_model(other, str(file))
    assert not same_model("models/missing.onnx", str(file))
    assert not same_model("ncf", str(file))
    (tmp_path / "models" / "c.py").touch()
    assert same_model("models/c.py:A", f"{tmp_path}/models/c.py:A")
    assert not same_model("models/c.py:A", f"{tmp_path}/models/c.py:B")
    assert not same_model("models/c.py:A", "models/c.py:A@link.onnx")
    assert same_model("models/c.py:A@models/m.onnx", "models/c.py:A@link.onnx")


def test_a_profile_is_taken_for_the_same_file_by_another_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(hostile.__file__).parent)
    absolute, relative = f"{hostile.__file__}:Good", "./hostile.py:Good"
    profile = LatencyProfile(absolute, (Point(1, 1, (1e-3,)), Point(1, 100, (2e-3,))), engine="eager")
    assert profiles_in([profile], (relative,), None) == {(relative, CPU): profile}
    (choice,) = choices(relative, {"sla_ms": 10.0}, profiles=[profile])
    assert choice.profile is profile
    with pytest.raises(InputError, match="expected a profile of"):
        profiles_in([profile], ("./hostile.py:Stated",), None)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("ranker/1/model.onnx", "ranker"),
        ("repo/ranker/12/model.pt2", "ranker"),
        ("ranker/v1/model.onnx", "model"),
        ("ranker/1/best.onnx", "best"),
    ],
)
def test_a_repositorys_folder_names_its_model(
    path: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = touched(tmp_path / path)
    assert short_name(file) == name
    monkeypatch.chdir(Path(file).parent)
    assert short_name(f"./{Path(file).name}") == name


def test_models_of_one_repository_are_served_together(tmp_path: Path) -> None:
    files = tuple(touched(tmp_path / name / "1" / "model.onnx") for name in ("a", "b"))
    assert named(files, None) == files
    assert client_names(files, ()) == ("a", "b")


def test_clients_ask_for_the_names_that_are_given() -> None:
    models = ("a.b:M", "c.d:M")
    assert client_names(models[:1], "Empfehlung für: A") == ("Empfehlung für: A",)
    assert client_names(models, ["a", "m"]) == ("a", "m")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), r"^MODEL: expected each once, got M, M$"),
        ("a", r"^--name: expected 2, one for each MODEL in their order, got 1$"),
        (["a", "a"], r"^--name: expected each once, got a, a$"),
        (["", "a"], r"^--name: expected 1 to 200 printable characters without a slash, .* got ''$"),
        (["a/b", "a"], r"got 'a/b'$"),
        (["a\n", "a"], r"got 'a\\n'$"),
        (["..", "a"], r"none of \., \.\., stats, got '\.\.'$"),
        (["stats", "a"], r"got 'stats'$"),
        (["a" * 201, "a"], r"^--name: .{1,200}$"),
    ],
)
def test_a_name_that_clients_cannot_ask_for_is_refused(given: str | list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        client_names(("a.b:M", "c.d:M"), given)

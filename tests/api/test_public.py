"""The public names: light to import, typed, complete, and apart from the command line."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import deeprecsys as dr
from deeprecsys.api.experiment import Experiment

ROOT = Path(__file__).parents[2]


def loaded_by(code: str) -> set[str]:
    heavy = "{'torch', 'numba', 'click', 'matplotlib', 'scipy', 'tqdm'}"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*({heavy} & set(sys.modules)))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import deeprecsys") == set()


def test_its_names_load_no_engine_no_compiler_no_command_line_and_no_plots() -> None:
    found = loaded_by("import deeprecsys as dr\nfor name in dr.__all__: getattr(dr, name)")
    assert found & {"torch", "numba", "click", "matplotlib"} == set()


def test_functions_keep_the_names_that_two_packages_have() -> None:
    code = (
        "import deeprecsys.simulate.fast, deeprecsys.serve.addresses, deeprecsys as dr\n"
        "assert callable(dr.simulate)\n"
        "import deeprecsys.simulate.driver\n"
        "assert callable(dr.simulate)\n"
        "from deeprecsys.simulate import driver"
    )
    assert "matplotlib" not in loaded_by(code)


def test_all_names_are_there_and_described() -> None:
    assert set(dr.__all__) <= set(dir(dr))
    for name in dr.__all__:
        value = getattr(dr, name)
        assert inspect.getdoc(value) or not (inspect.isclass(value) or inspect.isfunction(value)), name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'tunee'"):
        _ = dr.tunee  # type: ignore[attr-defined]


def test_every_option_of_an_experiment_has_its_default_in_one_place() -> None:
    shown = inspect.signature(dr.bench).parameters
    for name, parameter in inspect.signature(Experiment.resolve).parameters.items():
        if name not in ("model", "needs_target"):
            assert shown[name].default == parameter.default


def imports_of(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
    return found


COMMAND_LINE = ("tests/cli", "tests/docs", "tests/files", "tests/fixtures", "tests/serve/test_deploy.py")
"""Tests of what the command line takes, prints and writes."""


@pytest.mark.parametrize("folder", ["benchmarks", "examples", "tests"])
def test_what_uses_the_library_does_not_import_the_command_line(folder: str) -> None:
    files = [
        p for p in (ROOT / folder).rglob("*.py") if not str(p.relative_to(ROOT)).startswith(COMMAND_LINE)
    ]
    assert files
    for file in files:
        assert not any(m.startswith("deeprecsys.cli") for m in imports_of(file)), file

"""A model of the user's own on the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import answered, call, refused  # noqa: F401 - fixtures
from tests.custom.conftest import EXAMPLE

LISTWISE = "tests.custom.models:ListwiseAlone"
NULL = ["--engine", "null", "--sizes", "fixed:50", "--workers", "1"]


def test_a_target_must_be_given(refused) -> None:  # noqa: F811
    said = refused("bench", LISTWISE, "--rate", "10", *NULL)
    assert "--sla-ms: expected milliseconds" in said
    assert "got --target low" in refused("tune", LISTWISE, "--target", "low")


@pytest.mark.live
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch-size", "10"], "--batch-size: expected none or at least the largest query, 50"),
        (["--policy", "adaptive"], "--policy: expected one of deeprecsched, static, triton, bentoml"),
    ],
)
def test_a_listwise_model_is_never_cut(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("bench", LISTWISE, "--rate", "10", "--sla-ms", "50", *NULL, *options) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.live
def test_a_listwise_model_is_served_whole_with_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["bench", LISTWISE, "--rate", "50", "--duration", "0.5", "--sla-ms", "50", *NULL[:4]]
    assert call(*args, "--workers", "2", "--json", "-") == 0
    said = capsys.readouterr()
    assert "an item's score depends on the other items of its query" in said.err
    assert '"batch_size": 50' in said.out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            ["examples/own_model/nowhere.py:Ranker"],
            "model: expected a file, got examples/own_model/nowhere.py",
        ),
        (["tests.custom.models:Plane"], "expected a class 'Plane'"),
        (["ncf", "--weights", "/nowhere.pt"], "--weights: expected a model of your own"),
        (
            ["tests.custom.models:Plain", "--weights", "/nowhere.pt"],
            "--weights: expected a file, got /nowhere.pt",
        ),
        (["ncf.py"], "expected package.module:Class, FILE.py:Class, FILE.onnx or FILE.pt2, got 'ncf.py'"),
    ],
)
def test_what_cannot_be_loaded_gets_one_line(refused, args: list[str], said: str) -> None:  # noqa: F811
    assert said in refused("profile", *args)


def test_the_nodes_process_loads_neither_torch_nor_the_users_code() -> None:
    name = f"{EXAMPLE / 'model.py'}:ServedRanker"
    code = (
        "import sys; from deeprecsys.zoo import model\n"
        f"assert model({name!r}).splittable\n"
        "sys.exit('torch' in sys.modules or 'model' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.live
def test_the_example_is_profiled_without_a_target(answered) -> None:  # noqa: F811
    name = str(Path("examples/own_model/model.py")) + ":ServedRanker"
    found = answered("profile", name, "--rows-scale", "0.01", "--budget", "1", "--sizes", "fixed:16",
                     "--workers", "1")  # fmt: skip
    assert found["model"] == name
    assert found["points"]

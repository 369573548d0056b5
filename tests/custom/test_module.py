"""A plain PyTorch module as a model: exported from example inputs, its tables found, its scores its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import deeprecsys as dr
from deeprecsys.core.errors import InputError
from deeprecsys.engine import SliceView, build
from deeprecsys.zoo.custom import Own, own_model, with_weights
from deeprecsys.zoo.custom.describe import describe
from deeprecsys.zoo.custom.weights import read_example
from deeprecsys.zoo.schema import Per, Pooling, SparseInput
from tests.custom import modules
from tests.custom.test_describe import assembly

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.export's own
WHERE = "tests.custom.modules"


def saved(module: torch.nn.Module, example: dict[str, torch.Tensor], folder: Path) -> str:
    """A module's name with files of its weights and of an example."""
    torch.manual_seed(1)
    for weights in module.parameters():
        torch.nn.init.normal_(weights, std=0.5)
    torch.save(module.state_dict(), folder / "w.pt")
    torch.save(example, folder / "x.pt")
    return with_weights(f"{WHERE}:{type(module).__name__}", folder / "w.pt", folder / "x.pt")


def held_to(own: Own, module: torch.nn.Module, example: dict[str, torch.Tensor], items: int) -> None:
    """Both engines' scores against the module's, on rows of the example."""
    given = {n: t if len(t) == 1 else t[torch.arange(items) % len(t)] for n, t in example.items()}
    with torch.inference_mode():
        found = module.eval()(**given)
    parts = found if isinstance(found, tuple) else (found,)
    wanted = np.concatenate([p.numpy().reshape(items, -1) for p in parts], 1)
    about, layout = assembly(own)
    first = layout.rows_at(2)
    for t in own.schema.signature.inputs:
        rows = given[t.name].numpy().reshape(len(given[t.name]), -1)
        for feed in t.feeds:
            i = next(i for i in own.schema.inputs if i.name == feed.input)
            firsts = [f for f, _ in i.fields] if isinstance(i, SparseInput) and i.fields else 0
            part = rows[:, feed.columns or slice(None)] + np.array(firsts)
            about.inputs[feed.input][first[feed.input] :][: len(rows)] = part
    for engine in ("eager", "compiled"):
        out = np.empty(wanted.shape, np.float32)
        build(engine, about).score([SliceView(first, 0, items, out)])
        np.testing.assert_allclose(out, wanted, atol=1e-5)


IDS = torch.tensor([[1, 2, 3], [0, 0, 4], [5, 0, 6], [0, 0, 0], [7, 7, 7]])
EXAMPLES = {
    "Sequence": {
        "seen": torch.tensor([[0, 0, 1, 2, 3, 4], [0, 5, 6, 7, 8, 9], [0, 0, 0, 0, 0, 49]]),
        "item": torch.tensor([1, 2, 3]),
    },
    "Listwise": {"item": torch.tensor([4, 5, 6, 7])},
}  # fmt: skip


def test_a_module_with_weights_and_an_example_in_files(tmp_path: Path) -> None:
    module = modules.TwoTower()
    name = saved(module, module.example_inputs(), tmp_path)
    own = describe(name)
    assert Own.unpack(own.pack()) == own
    per = {i.name: (i.table, i.per) for i in own.schema.sparse}
    assert per == {
        "user": ("users.weight", Per.QUERY), "seen": ("goods.weight", Per.QUERY),
        "item": ("goods.weight", Per.ITEM), "item/1": ("bias", Per.ITEM),
    } or per["item/1"][1] is Per.ITEM  # fmt: skip
    assert set(own.keys.values()) == {"users.weight", "goods.weight", "bias"}
    assert [t.row for t in own.schema.signature.outputs] == [(), (1,)]
    assert own.splittable
    assert own.notes == ()
    for items in (1, 7, 90):
        held_to(own, module, module.example_inputs(), items)


def test_bags_in_every_mode_are_found_in_what_exporters_make_of_them(tmp_path: Path) -> None:
    module, example = modules.Bags(), {"ids": IDS, "x": torch.linspace(-1, 1, 5)[:, None]}
    own = describe(saved(module, example, tmp_path))
    assert {i.table.split(".")[0]: i.pooling for i in own.schema.sparse} == {
        "summed": Pooling.SUM, "mean": Pooling.MEAN, "largest": Pooling.SEQUENCE, "padded": Pooling.SEQUENCE,
    }  # fmt: skip
    assert own.notes == ()
    for items in (1, 40):
        held_to(own, module, example, items)
    old = modules.Unpadded().eval()
    with torch.no_grad():
        made = {
            "input_names": ["ids"],
            "dynamic_axes": {"ids": {0: "n"}},
            "dynamo": False,
            "opset_version": 17,
        }
        torch.onnx.export(old, (IDS,), tmp_path / "old.onnx", **made)
    found = describe(str(tmp_path / "old.onnx"))
    assert [i.table.split(".")[0] for i in found.schema.inputs] == ["summed", "mean", "largest"]
    held_to(found, old, {"ids": IDS}, 7)


@pytest.mark.parametrize(("name", "splits"), [("Sequence", True), ("Listwise", False)])
def test_a_mask_made_of_ids_and_a_list_of_items(name: str, splits: bool, tmp_path: Path) -> None:
    module = getattr(modules, name)()
    own = describe(saved(module, EXAMPLES[name], tmp_path))
    assert own.splittable == splits
    assert {i.table for i in own.schema.sparse} == {"goods.weight"}
    for items in (2, 60):
        held_to(own, module, EXAMPLES[name], items)


def test_without_weights_the_module_makes_its_own_and_the_node_runs_none_of_it() -> None:
    code = (
        "import sys; from deeprecsys.zoo import model\n"
        f"assert model('{WHERE}:TwoTower').splittable\n"
        "sys.exit('torch' in sys.modules or 'tests.custom.modules' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    own = own_model(f"{WHERE}:TwoTower")
    about, _ = assembly(own)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = modules.TwoTower()
    key = {v: k for k, v in own.keys.items()}["users.weight"]
    np.testing.assert_array_equal(about.tables[key], made.users.weight.detach().numpy())


@pytest.mark.parametrize(
    ("name", "example", "said"),
    [
        ("NoExample", None, r"expected example inputs, --example FILE or a function example_inputs\(\)"),
        ("NeedsArgument", None, "expected a class without arguments"),
        ("Listwise", {"item": torch.tensor([4])}, "two or more, .* got first dimensions"),
        ("Listwise", {"item": torch.tensor([4, 5]), "x": torch.zeros(3)}, "got first dimensions"),
        ("Listwise", {"item": torch.zeros(4)}, "expected a module that torch.export can write"),
        ("Listwise", {"item": {"x": torch.zeros(4)}}, "expected a module that torch.export can write"),
        ("BySize", {"item": torch.tensor([4, 5])}, "expected a module that torch.export can write"),
    ],
)  # fmt: skip
def test_a_module_that_cannot_be_served_is_refused_in_one_line(name, example, said, tmp_path: Path) -> None:
    if example is not None:
        torch.save(example, tmp_path / "x.pt")
    with pytest.raises(InputError, match=said) as refusal:
        describe(with_weights(f"{WHERE}:{name}", None, tmp_path / "x.pt" if example is not None else None))
    assert "\n" not in str(refusal.value)


def test_examples_are_read_without_unpickling(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", item=np.arange(4))
    assert torch.equal(read_example(str(tmp_path / "x.npz"))["item"], torch.arange(4))
    torch.save([torch.arange(4)], tmp_path / "x.pt")
    assert len(read_example(str(tmp_path / "x.pt"))) == 1
    torch.save({"item": modules.Listwise()}, tmp_path / "bad.pt")
    np.savez(tmp_path / "bad.npz", item=np.array([object()]))
    (tmp_path / "bad.txt").write_text("1")
    for name in ("bad.pt", "bad.npz", "bad.txt"):
        with pytest.raises(InputError, match=r"--example .*: expected \.pt with tensors alone") as refusal:
            read_example(str(tmp_path / name))
        assert "\n" not in str(refusal.value)


def test_explain_says_what_was_found(tmp_path: Path) -> None:
    found = dr.explain_model(f"{WHERE}:TwoTower")
    said = str(found)
    assert "user INT64 [1], per query: ids of users.weight" in said
    assert "item INT64 [n], per item: ids of goods.weight; ids of" in said
    assert "goods.weight [50, 8], 0.0 MiB: read by seen 6 averaged, item" in said
    assert "once per query\n  user: its rows and what is computed of it alone" in said
    assert found.shared_bytes == 4 * (20 * 8 + 50 * 8 + 50)
    assert found.worker_bytes > 0
    with pytest.raises(InputError, match="expected a model of your own, got 'ncf'"):
        dr.explain_model("ncf")

"""The shape of the source tree: no circle of modules, one meaning for each class name."""

from __future__ import annotations

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

SRC = Path(__file__).resolve().parents[1] / "src"
PATHS = {
    ".".join(p.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__"): p for p in SRC.rglob("*.py")
}
TREES = {name: ast.parse(path.read_text()) for name, path in PATHS.items()}


def imports(name: str) -> set[str]:
    """The modules of the package that a module imports anywhere: in functions and for types alone too."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: a relative import, which this test does not follow"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {n if n in TREES else str(node.module) for n in names}
    return found & set(TREES)


def test_no_circle_of_modules():
    graph = {name: imports(name) for name in TREES}
    assert sum(map(len, graph.values())) > 500, "the imports were not found"
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as e:
        raise AssertionError("a circle of modules: " + " -> ".join(reversed(e.args[1]))) from None


def test_no_public_class_name_is_defined_twice():
    places = defaultdict(list)
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name)
    assert len(places) > 200, "the classes were not found"
    assert not {k: v for k, v in places.items() if len(v) > 1}


def modules_that(holds) -> list[str]:
    """The modules of `node` with a syntax node for which `holds`."""
    inside = {n: t for n, t in TREES.items() if n.startswith("deeprecsys.node")}
    return sorted(n for n, tree in inside.items() if any(holds(node) for node in ast.walk(tree)))


def calls(node: ast.AST, method: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method


def test_a_node_has_one_worker_entry_point_one_supervisor_and_one_driver():
    """For trials and for the live service alike."""
    assert modules_that(lambda n: isinstance(n, ast.FunctionDef) and n.name == "main") == [
        "deeprecsys.node.runtime.worker"
    ]
    starts = modules_that(lambda n: calls(n, "Popen") or calls(n, "create_subprocess_exec"))
    assert starts == ["deeprecsys.node.runtime.process"]
    supervisors = [n for n in TREES if "deeprecsys.node.runtime.process" in imports(n)]
    assert supervisors == ["deeprecsys.node.runtime.workers"]
    names = ("Finish", "Lost", "Ready")  # what workers report, as events of the dispatcher
    driver = ["deeprecsys.node.driver"]
    for name in names:
        made = modules_that(lambda n, e=name: isinstance(n, ast.Call) and getattr(n.func, "id", "") == e)
        assert made == driver
    closed = "deeprecsys.node.closed"  # batches in a row, without a dispatcher
    posts = modules_that(lambda n: calls(n, "post") and getattr(n.func.value, "attr", "") != "box")
    assert posts == [closed, *driver]

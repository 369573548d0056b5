"""What is timed in turn in a cell of `engine/against_limits.py`: engines, their stages, and the loops and products of floors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np

from benchmarks.lib.experiments import filled_memory
from benchmarks.lib.machine_limits import Call, Products, in_turn, row_loops
from deeprecsys.node.runtime.page_walk import PageWalker
from deeprecsys.zoo import model
from deeprecsys.zoo.rows import RowFormat

BATCHES = (1, 16, 64, 256, 1024)
LEAST_QUERIES, MOST_QUERIES, ITEMS = 64, 4096, 65536
"""Number of queries that take turns: about `ITEMS` items in all, whose rows no cache holds."""
FORMS = tuple(f.value for f in RowFormat)
JOINED = "compiled:onnxruntime fp32"


class RowFormats:
    """Tables and features of one model in every row format, made before anything heavy is loaded."""

    def __init__(self, name: str, scale: float, locality: str) -> None:
        self.model, self.seed = model(name).scaled(scale), 0
        self.memory = {form: filled_memory(name, scale, max(BATCHES), locality, form) for form in FORMS}

    def about(self) -> dict[str, Any]:
        tables = {form: m.segments["tables"] for form, m in self.memory.items()}
        return {f: {"bytes": t.size, "huge_page_fraction": t.huge_fraction()} for f, t in tables.items()}

    def turns(self, items: int, use: Callable[[Any], Any]) -> Call:
        """A call that is given another query of some items each time."""
        from deeprecsys.engine import SliceView

        out = np.zeros((items, self.model.schema.outputs), np.float32)
        return in_turn([SliceView(first, 0, items, out) for first in self._firsts(items)], use)

    def rows(self, loop: Callable[..., Any], items: int, form: str) -> Call:
        """A loop of `row_loops` over the rows that a batch looks up, another query's each time."""
        memory, inputs = self.memory[form], self.model.schema.sparse
        counts = np.array([i.lookups * (items if i.per == "item" else 1) for i in inputs])
        arrays = [memory.tables[i.table] for i in inputs]
        starts = np.array([a.ctypes.data for a in arrays])
        sizes = np.array([a.strides[0] for a in arrays])
        pools = np.array([memory.inputs[i.name].ctypes.data for i in inputs])
        widths = np.array([4 * i.lookups for i in inputs])
        ids = [pools + widths * np.array([first[i.name] for i in inputs]) for first in self._firsts(items)]
        return in_turn(ids, lambda at: loop(at, counts, starts, sizes, sizes))

    def make_resident(self) -> None:
        """Have all memory mapped."""
        PageWalker(lambda: [s for m in self.memory.values() for s in m.segments.values()]).walk()

    def close(self) -> None:
        for memory in self.memory.values():
            memory.close()

    def _firsts(self, items: int) -> list[Any]:
        """Where each query's rows begin in the pools of features."""
        count = min(MOST_QUERIES, max(LEAST_QUERIES, ITEMS // items))
        handles = np.random.default_rng(self.seed).integers(0, 1 << 62, MOST_QUERIES).tolist()
        return [self.memory["fp32"].features.rows_at(h) for h in handles[:count]]


class Contenders:
    """All engines of one model and the loops over its rows, in a process of their own."""

    def __init__(self, memory: RowFormats) -> None:
        from deeprecsys.engine import Assembly, build
        from deeprecsys.engine.dense import installed, lowest

        self.model, self._memory = memory.model, memory
        routes = [r for r in ("onnxruntime", "openvino") if r in installed()]
        chosen = [("eager", "fp32")] + [(f"compiled:{r}", "fp32") for r in routes]
        chosen += [("compiled:onnxruntime", f) for f in FORMS if f != "fp32"]
        if "openvino" in routes and lowest("openvino", "bf16") == "bf16":
            chosen.append(("compiled:openvino", "bf16"))
        self.engines: dict[str, Any] = {}
        self.arithmetic: dict[str, str] = {}
        for name, form in chosen:
            rows = memory.memory[form]
            assembly = Assembly(memory.model, rows.tables, rows.inputs, precision=form)
            engine = self.engines[f"{name} {form}"] = build(name, assembly)
            self.arithmetic[f"{name} {form}"] = str(getattr(engine, "arithmetic", ""))
        self.products = Products()

    def calls(self, items: int) -> dict[str, Call]:
        """The engines whole, the stages of the fastest at fp32, and the loops; all memory is resident then."""
        memory, joined = self._memory, self.engines[JOINED]
        memory.make_resident()
        found = {n: memory.turns(items, lambda part, e=e: e.score([part])) for n, e in self.engines.items()}
        found["sparse"] = memory.turns(items, lambda part: joined.sparse([part]))
        found["dense"] = memory.turns(items, joined.dense)
        loops = dict(zip(("asking", "reading"), row_loops(), strict=True))
        rows = product(FORMS, loops.items())
        return found | {f"{name} {form}": memory.rows(loop, items, form) for form, (name, loop) in rows}


class Inside:
    """Times what a call of the compiled engine spends in the gather kernel and in its dense route: the rest
    is what the call itself costs. They are timed where they happen, so caches are as they are then."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.seconds = engine, 0.0

    def excess_us(self, call: Call, count: int) -> float:
        """Median over calls of the whole less its parts, microseconds."""
        excess = []
        with self._instead(self._timed):
            for _ in range(count):
                self.seconds = 0.0
                began = time.perf_counter()
                call()
                excess.append(time.perf_counter() - began - self.seconds)
        return 1e6 * float(np.median(excess))

    def without_us(self, call: Call, count: int) -> float:
        """Mean of calls whose kernel and route do nothing, microseconds."""
        with self._instead(lambda _: _nothing):
            began = time.perf_counter()
            for _ in range(count):
                call()
            return 1e6 * (time.perf_counter() - began) / count

    @contextmanager
    def _instead(self, other: Callable[[Any], Any]) -> Iterator[None]:
        """For a while, what `other` makes of kernel and route runs in their places."""
        gather, stage = self.engine._gather_one, self.engine._stage
        kernel, route = gather._run, stage._run
        gather._run, stage._run = other(kernel), other(route)
        try:
            yield
        finally:
            gather._run, stage._run = kernel, route

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            began = time.perf_counter()
            out = function(*args)
            self.seconds += time.perf_counter() - began
            return out

        return timed


def _nothing(*_: Any) -> None:
    pass

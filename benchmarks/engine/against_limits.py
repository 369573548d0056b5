"""Every engine, whole, against the machine's limits, which are measured in the same run.

Part `one`: one core, one thread. Part `all`: as many processes as cores, one thread each, all measuring
at the same time over the same tables. Part `zipf`: one core again, ids drawn by Zipf's law instead of
uniformly. By default `one` for every model, `all` for the eight of the paper, `zipf` for dlrm-rmc1 and -rmc2. Each
part of a model is saved as it ends; none is begun after --seconds, and --more goes on from there.

A model's floor at a batch is the time of its matrix products, each at its own shape by the library that is
fastest at it (less what calling that library costs), and of a loop that prefetches every row that the batch
looks up and does nothing else. The corrected floor adds what is no product (tanh, sigmoid, PReLU) at the best
rate seen; takes the products in turn, each with its own weight, since a product repeated alone keeps its weight
in the nearest cache as no model can; and a loop that reads the rows instead of one that prefetches, since a
processor may drop prefetches. What a call costs besides is timed within the calls themselves: the whole less
the gather kernel and the dense stage's run. All contenders of a batch, floors included, take turns round by round;
medians count, and of ratios the median over rounds. Spoilt samples are dropped by rule
(`machine_limits.STALLED`, `machine_limits.SLOWED`). Times are of the CPU clock. Tables are scaled to 2.05 GB where
they are larger. Keep the machine idle.
"""

from __future__ import annotations

import multiprocessing as mp
import os
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from benchmarks.harness import ROOT, Benchmark, Result, Run, Tables, load
from benchmarks.lib import engine_goals
from benchmarks.lib.engine_contenders import BATCHES, JOINED, Contenders, Inside, RowFormats
from benchmarks.lib.engine_tables import GOALS, roofline, sections
from benchmarks.lib.machine_limits import (
    Call,
    Products,
    Rounds,
    interleaved,
    product_rates,
    random_rows,
    wise_rates,
)
from benchmarks.lib.model_work import Work, work
from benchmarks.lib.multiply_add import register_gflops
from deeprecsys.zoo import MODELS, model

FORK = mp.get_context("fork")
"""The tables' maps go to the children as they are."""
CALLS = 50
"""Calls whose excess over their stages is looked at."""
SECONDS = 660.0
FULL = {"rounds": 7, "round_s": 0.006, "table_bytes": 2.05e9, "model_bytes": 2.05e9}
QUICK = {"rounds": 3, "round_s": 5e-4, "table_bytes": 1e8, "model_bytes": 5e7}
LOCALITIES = {"one": "uniform", "all": "uniform", "zipf": "zipf:0.9"}
ZIPF_MODELS = ("dlrm-rmc1", "dlrm-rmc2")
LIBRARY_SHAPES = ((1024, 2560, 512), (1024, 1024, 512), (1024, 1024, 1024))
ROW_SIZES = (40, 64, 72, 128, 256)


def cell(
    c: Contenders, items: int, limits: dict[str, Any], how: dict[str, Any], meet: Call
) -> dict[str, Any]:
    """One batch size: everything in turn, then floors and fractions."""
    todo = work(c.model, items)
    calls, libraries = c.calls(items), c.products.libraries()
    for lib in libraries:
        calls[f"call {lib}"] = c.products.call(lib, 1, 1, 1)
        for p in {p[:3] for p in todo.products}:
            calls[f"{lib} {p}"] = c.products.call(lib, *p)
        calls[f"in turn {lib}"] = c.products.chain(lib, todo.products)
    found = interleaved(calls, how["rounds"], how["round_s"], meet)
    dense, in_turn, wise = dense_floor(found, todo, libraries, limits)
    engines = {}
    for name in c.engines:
        form, taken = name.rsplit(" ", 1)[1], found.seconds[name]
        asking, reading = (found.seconds[f"{loop} {form}"] for loop in ("asking", "reading"))
        floor, corrected = dense + asking, in_turn + wise + np.maximum(asking, reading)
        engines[name] = {
            "us": 1e6 * found.median(name), "floor_us": 1e6 * middle(floor),
            "corrected_floor_us": 1e6 * middle(corrected), "fraction": middle(floor / taken),
            "corrected_fraction": middle(corrected / taken),
            "gain_over_eager": middle(found.seconds["eager fp32"] / taken),
        }  # fmt: skip
    products = {
        p[:3]: {lib: 1e6 * found.median(f"{lib} {p[:3]}") for lib in libraries} for p in todo.products
    }
    return {
        "batch": items, "flops": todo.flops, "dropped": found.dropped, "disturbed": found.disturbed,
        "us": {name: 1e6 * found.median(name) for name in calls if " (" not in name},
        "products_us": {str(shape): us for shape, us in products.items()}, "engines": engines,
        "call_overhead_us": Inside(c.engines[JOINED]).excess_us(calls[JOINED], CALLS),
        "dense_floor_us": 1e6 * middle(dense), "wise_us": 1e6 * wise, "in_turn_floor_us": 1e6 * middle(in_turn),
    }  # fmt: skip


def middle(rounds: Any) -> float:
    """The median of the rounds in which nothing was spoilt; NaN if there is none."""
    left = rounds[np.isfinite(rounds)]
    return float(np.median(left)) if len(left) else float("nan")


def mended(rounds: Any) -> Any:
    """Rounds of one part of a sum: where it was spoilt, its median, for some part is in nearly every round."""
    return np.where(np.isfinite(rounds), rounds, middle(rounds))


def dense_floor(
    found: Rounds, todo: Work, libraries: tuple[str, ...], limits: dict[str, Any]
) -> tuple[Any, Any, float]:
    """Seconds of all products, each alone and all in turn, round by round; and of what is no product."""
    total: Any = 0.0
    for p in todo.products:
        least = p.flops / (1e9 * limits["register_gflops"])
        own = {lib: found.seconds[f"{lib} {p[:3]}"] - found.median(f"call {lib}") for lib in libraries}
        best = min(own, key=lambda lib: middle(own[lib]))
        total = total + p.times * np.maximum(mended(own[best]), least)
    calls = sum(p.times for p in todo.products)
    chains = [found.seconds[f"in turn {lib}"] - calls * found.median(f"call {lib}") for lib in libraries]
    streamed = todo.streamed / limits["wise"]["stream_bytes"]
    in_turn = np.maximum(mended(min(chains, key=middle)), total) + streamed
    total = total + streamed
    rates = {**limits["wise"], "vector": 0.5e9 * limits["register_gflops"]}
    return total, in_turn, sum(w.count / rates[w.kind] for w in todo.wise)


def machine_limits(how: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on a model: registers, best products, element-wise work, random rows."""
    rounds = how["rounds"], how["round_s"]
    found: dict[str, Any] = {"register_gflops": register_gflops()}
    for precision in ("fp32", "bf16"):
        products = Products(precision)
        if precision == "bf16" and "openvino" not in products.libraries():
            continue  # no instructions: emulated products are no limit
        found[f"{precision}_gflops"] = product_rates(products, products.libraries(), LIBRARY_SHAPES, *rounds)
    found["wise"] = wise_rates(*rounds)
    found["rows"] = random_rows(how["table_bytes"], ROW_SIZES, *rounds)
    return found


def alone(core: int) -> None:
    """Make this process one thread on one core."""
    os.sched_setaffinity(0, [core])
    import torch

    torch.set_num_threads(1)


def serve(pipe: Any, core: int, memory: RowFormats, batches: list[int], *rest: Any) -> None:
    """A process of its own that sends what it computes in, then the `cell` of every batch size."""
    alone(core)
    memory.seed = core  # the cores' queries differ
    contenders = Contenders(memory)
    pipe.send(contenders.arithmetic)
    for items in batches:
        pipe.send(cell(contenders, items, *rest))


def measure(
    memory: RowFormats, cores: list[int], batches: list[int], limits: dict[str, Any], how: dict[str, Any]
) -> tuple[dict[str, str], list[list[Any]]]:
    """What engines compute in, and, size by size, the cell of each core's process; all measure at once."""
    meet = FORK.Barrier(len(cores)).wait if len(cores) > 1 else lambda: None
    pipes = []
    for core in cores:
        ours, theirs = FORK.Pipe(duplex=False)
        given = (theirs, core, memory, batches, limits, how, meet)
        FORK.Process(target=serve, args=given, daemon=True).start()
        theirs.close()
        pipes.append(ours)
    try:
        arithmetic, *_ = [p.recv() for p in pipes]
        return arithmetic, [[p.recv() for p in pipes] for _ in batches]
    except EOFError:
        raise SystemExit("a measuring process ended; its output is above") from None


def part(
    name: str, which: str, limits: dict[str, Any], batches: list[int], how: dict[str, Any]
) -> dict[str, Any]:
    """All batch sizes of one model. Of several cores the first speaks; the others' spread is kept."""
    scale = min(1.0, how["model_bytes"] / model(name).schema.table_bytes)
    memory = RowFormats(name, scale, LOCALITIES[which])
    cores = all_cores() if which == "all" else all_cores()[:1]
    arithmetic, answers = measure(memory, cores, batches, limits, how)
    cells = []
    for first, *others in answers:
        us = {n: [a["engines"][n]["us"] for a in (first, *others)] for n in first["engines"]}
        cells.append({**first, "us_by_core": us})
        print(line(name, which, first), flush=True)
    about = {"limits": limits, "locality": LOCALITIES[which], "tables": memory.about()}
    memory.close()
    return {"cores": len(cores), "arithmetic": arithmetic, "cells": cells, **about}


def line(name: str, which: str, row: dict[str, Any]) -> str:
    engines = (
        f"{engine} {e['us']:.0f} us {100 * e['fraction']:.0f} % ({100 * e['corrected_fraction']:.0f} %)"
        for engine, e in row["engines"].items()
    )
    return " | ".join([f"{name:19} {which} {row['batch']:5} call +{row['call_overhead_us']:5.1f} us", *engines,
                       f"dropped {100 * row['dropped']:.0f} %, disturbed {len(row['disturbed'])}"])  # fmt: skip


def all_cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def parts_of(name: str) -> tuple[str, ...]:
    """What is measured of a model by default."""
    return ("one", *(("all",) if name in GOALS else ()), *(("zipf",) if name in ZIPF_MODELS else ()))


def run(run: Run) -> None:
    o, how = run.options, QUICK if run.quick else FULL
    limits = run.result.get("limits") if o.more and not run.quick else None
    if not limits:
        with ProcessPoolExecutor(1, FORK, alone, (all_cores()[0],)) as pool:
            limits = pool.submit(machine_limits, how).result()
    batches = [1, 64] if run.quick else [int(b) for b in o.batches.split(",")]
    run.each(
        [(m, p) for m in MODELS for p in ([o.part] if o.part else parts_of(m))],
        lambda name, which: part(name, which, limits, batches, how),
        seconds=o.seconds, rounds=how["rounds"], clock="cpu", threads=1, limits=limits,
    )  # fmt: skip


def tables(result: Result) -> Tables:
    body = sections(result["models"], result["limits"], result["machine"])
    goals = engine_goals.verdicts(load("engine_gather_kernel"), load("engine_dense_stages"), result)
    return {"engine": f"{body}\n\n**Goals**\n\n{engine_goals.table(goals)}"}


def plot(result: Result) -> None:
    roofline(result["models"], result["limits"], ROOT / "docs" / "roofline.png")


BENCHMARK = Benchmark(
    __file__, __doc__, run, tables, tuple(MODELS),
    {
        "--batches": {"default": ",".join(map(str, BATCHES))},
        "--part": {"choices": tuple(LOCALITIES), "help": "only this part"},
        "--seconds": {"type": float, "default": SECONDS, "help": "begin no part after these"},
    },
    finish=plot,
)  # fmt: skip

if __name__ == "__main__":
    BENCHMARK.main()

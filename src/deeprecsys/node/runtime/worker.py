"""A worker process: waits at its bell, scores the batch in its mailbox, rings back.

Started by `pool` as `python -m deeprecsys.node.runtime.worker SPEC`. It imports only what its engine needs;
thread counts are in its environment before that.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from deeprecsys.engine import Assembly, Engine, SliceView, build
from deeprecsys.node.runtime import mailbox
from deeprecsys.node.runtime.cores import die_with_parent, go_first
from deeprecsys.node.runtime.memory import NodeMemory, Plan
from deeprecsys.node.runtime.page_walk import PageWalker, kept_at_hand
from deeprecsys.zoo import model

SPIN_NS = 50_000 if platform.machine() == "x86_64" else 0
"""How long a worker looks at its mailbox before it sleeps at the bell: under load the next batch comes
sooner than a sleeping core wakes. Only where stores are seen in order without a system call."""


@dataclass(frozen=True)
class WorkerSpec:
    """Everything that a worker process is told; crosses as JSON."""

    parent: int
    index: int
    cores: list[int]
    bell: int
    """eventfd that the node rings: a request is in the mailbox."""
    done: int
    """eventfd that the worker rings: a reply is in the mailbox."""
    fds: dict[str, int]
    plan: Plan
    engine: str
    precision: str
    threads: int

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> WorkerSpec:
        data = json.loads(text)
        return cls(**{**data, "plan": Plan(**data["plan"])})


def main() -> None:
    spec = WorkerSpec.load(sys.argv[1])
    die_with_parent(spec.parent, signal.SIGKILL)
    os.sched_setaffinity(0, spec.cores)
    go_first()
    memory = NodeMemory.attach(spec.plan, spec.fds)
    box = mailbox.Mailbox(memory.mailbox(spec.index))
    try:
        engine = _engine(spec, memory)
    except Exception as e:
        box.say(f"{type(e).__name__}: {e}")
        box.state = mailbox.REFUSED
        os.eventfd_write(spec.done, 1)
        raise SystemExit(1) from e
    gc.collect()
    gc.freeze()
    box.say(str(getattr(engine, "arithmetic", "")))
    desk = ModelRunner(engine, slice_viewer(memory))
    walker = kept_at_hand(lambda: [memory.segments[n] for n in ("tables", "features")])
    box.state = mailbox.READY
    os.eventfd_write(spec.done, 1)
    attend(spec.bell, spec.done, box, {0: desk}, walker=walker)


def _engine(spec: WorkerSpec, memory: NodeMemory) -> Engine:
    plan = spec.plan
    assembly = Assembly(
        model=model(plan.model).scaled(plan.rows_scale),
        tables=memory.tables,
        inputs=memory.inputs,
        seed=plan.seed,
        threads=spec.threads,
        precision=spec.precision,
    )
    return build(spec.engine, assembly)


class ModelRunner(NamedTuple):
    """Where a worker scores one model: the engine, and what turns a part in the mailbox into its view."""

    engine: Engine
    view: Callable[[mailbox.SliceAddress], SliceView]


def attend(
    bell: int,
    done: int,
    box: mailbox.Mailbox,
    desks: Mapping[int, ModelRunner],
    drop: Callable[[int], None] = lambda _model: None,
    walker: PageWalker | None = None,
) -> None:
    """Score what the mailbox brings until it brings a stop.

    Args:
        desks: by model.
        drop: called with the model of a request without parts: nobody will ask for it again.
        walker: walks while the bell is silent.
    """
    clock, wait, ring = time.monotonic_ns, os.eventfd_read, os.eventfd_write
    seq = 0
    ears = select.poll()
    ears.register(bell, select.POLLIN)

    def asked() -> bool:
        return box.requested != seq

    while True:
        if SPIN_NS:
            until = clock() + SPIN_NS
            while not asked() and clock() < until:
                pass
        while walker and not asked() and not ears.poll(1e3 * walker.wait_s):
            walker.walk(asked)
        wait(bell)
        seq, parts = box.request()
        if seq == 0:
            return
        started = clock()
        errors: list[tuple[int, str]] = []
        if parts:
            engine, view = desks[box.model]
            slices = [view(p) for p in parts]
            try:
                engine.score(slices)
            except Exception:
                errors = one_by_one(engine, slices)
            del engine, view, slices
        else:
            drop(box.model)
        box.answer(seq, started, clock(), errors)
        ring(done, 1)


def slice_viewer(memory: NodeMemory) -> Callable[[mailbox.SliceAddress], SliceView]:
    """A function from a part in a mailbox to the engine's view of it."""
    scores, rows_at = memory.scores, memory.rows_at

    def view(part: mailbox.SliceAddress) -> SliceView:
        return SliceView(
            rows_at(part.features), part.start, part.stop, scores[part.slot, part.start : part.stop]
        )

    return view


def one_by_one(engine: Engine, slices: Sequence[SliceView]) -> list[tuple[int, str]]:
    """Score the slices of a failed batch alone; the index and the reason of each that fails."""
    errors = []
    for i, part in enumerate(slices):
        try:
            engine.score([part])
        except Exception as e:
            part.out[...] = np.nan
            errors.append((i, f"{type(e).__name__}: {e}".splitlines()[0]))
    return errors


if __name__ == "__main__":
    main()

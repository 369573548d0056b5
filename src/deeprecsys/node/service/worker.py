"""A worker of a service: holds an engine for every model, and scores what its mailbox brings.

Started by serve.crew as `python -m deeprecsys.node.service.worker SPEC`.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from dataclasses import asdict, dataclass

from deeprecsys.engine import build
from deeprecsys.node.runtime import mailbox
from deeprecsys.node.runtime.cores import die_with_parent, go_first
from deeprecsys.node.runtime.page_walk import kept_at_hand
from deeprecsys.node.runtime.segment import Segment
from deeprecsys.node.runtime.worker import ModelRunner, attend
from deeprecsys.node.service.arena import ArenaPlan, VersionSpec


@dataclass(frozen=True)
class CrewSpec:
    """Everything that a worker process is told; crosses as JSON.

    Attributes:
        index: of its mailbox, one of `boxes` in the segment `mail`.
        bell, done: eventfds that the service and the worker ring.
        gentle: whether nobody waits for it: then it takes precedence only once it is ready.
    """

    parent: int
    index: int
    boxes: int
    cores: list[int]
    bell: int
    done: int
    mail: int
    threads: int
    gentle: bool
    editions: tuple[VersionSpec, ...]

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> CrewSpec:
        data = json.loads(text)
        editions = tuple(VersionSpec(**{**e, "plan": ArenaPlan(**e["plan"])}) for e in data["editions"])
        return cls(**{**data, "editions": editions})

    @property
    def fds(self) -> list[int]:
        """All descriptors that cross, but for the bells."""
        return [self.mail, *(fd for e in self.editions for fd in e.fds.values())]


def main() -> None:
    spec = CrewSpec.load(sys.argv[1])
    die_with_parent(spec.parent, signal.SIGKILL)
    os.sched_setaffinity(0, spec.cores)
    if not spec.gentle:
        go_first()
    mail = Segment(spec.mail, spec.boxes * mailbox.WORDS * 8, writable=True)
    box = mailbox.Mailbox(mail.words()[spec.index * mailbox.WORDS : (spec.index + 1) * mailbox.WORDS])
    desks: dict[int, ModelRunner] = {}
    mapped: dict[int, Segment] = {}
    try:
        for edition in spec.editions:
            assembly, view = edition.attach(spec.threads, mapped)
            desks[edition.id] = ModelRunner(build(edition.engine, assembly), view)
    except Exception as e:
        box.say(f"{type(e).__name__}: {e}")
        box.state = mailbox.REFUSED
        os.eventfd_write(spec.done, 1)
        raise SystemExit(1) from e
    del assembly, view
    tables = {e.id: e.fds["tables"] for e in spec.editions}

    def drop(edition: int) -> None:
        """Give back what an edition holds that nobody asks for any more."""
        desks.pop(edition, None)
        gc.unfreeze()
        gc.collect()  # engines hold themselves in circles
        gc.freeze()
        if segment := mapped.pop(tables.pop(edition, -1), None):
            if walker:
                walker.forget()
            segment.close()

    gc.collect()
    gc.freeze()
    walker = kept_at_hand(lambda: [s for s in mapped.values() if not s.writable])
    if spec.gentle:
        go_first()
    box.state = mailbox.READY
    os.eventfd_write(spec.done, 1)
    attend(spec.bell, spec.done, box, desks, drop, walker)


if __name__ == "__main__":
    main()

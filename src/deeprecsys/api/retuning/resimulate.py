"""Searches the best policy for a mix of sizes in virtual time, in a process of lowest priority.

Started as `python -m deeprecsys.api.retuning.resimulate PARENT`: a JSON question per line on its standard
input, a JSON answer per line on its standard output. The simulator's compiler and the search load neither the
service's process nor, while anything else wants them, its cores.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from deeprecsys.api.policies import LOADED, class_of, from_description
from deeprecsys.api.retuning.decision import BestPolicy
from deeprecsys.core.allowance import NOTHING, Allowance
from deeprecsys.core.errors import NodeError
from deeprecsys.core.policy import Policy
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.core.target import Target
from deeprecsys.node.runtime.cores import die_with_parent

log = logging.getLogger("deeprecsys.serve")

LINE_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Question:
    """Which policy has the highest capacity for a mix of sizes?

    Attributes:
        sizes: a sample of the mix, in items; largest: items of the largest query.
        present: the policy in use; None takes the baseline for it.
        queries: queries of the simulated path.
        gpu: batch times on an accelerator, whose threshold is then searched too; gpus: their number.
        allowance: under what the target is to be met.
        search: False asks for the capacity of the present policy alone.
    """

    profile: LatencyProfile
    sizes: Sequence[int]
    workers: int
    target: Target
    largest: int
    present: Policy | None
    queries: int
    gpu: LatencyProfile | None = None
    gpus: int = 1
    allowance: Allowance = NOTHING
    search: bool = True

    def to_json(self) -> dict[str, Any]:
        return {
            "profile": self.profile.to_json(),
            "sizes": list(self.sizes),
            "workers": self.workers,
            "target": asdict(self.target),
            "largest": self.largest,
            "present": self.present.describe() if self.present else None,
            "queries": self.queries,
            "gpu": self.gpu.to_json() if self.gpu else None,
            "gpus": self.gpus,
            "allowance": asdict(self.allowance),
            "search": self.search,
            "policies": list(LOADED.values()),
        }

    @classmethod
    def from_json(cls, doc: dict[str, Any]) -> Question:
        for text in doc["policies"]:
            class_of(text)
        return cls(
            LatencyProfile.from_json(doc["profile"]),
            doc["sizes"],
            doc["workers"],
            Target(**doc["target"]),
            doc["largest"],
            from_description(doc["present"]) if doc["present"] else None,
            doc["queries"],
            LatencyProfile.from_json(doc["gpu"]) if doc["gpu"] else None,
            doc["gpus"],
            Allowance(**doc["allowance"]),
            doc["search"],
        )


def best_policy(q: Question) -> BestPolicy:
    """The policy with the highest capacity for a mix, by simulation of one path with Poisson arrivals."""
    from deeprecsys.api.virtual import Accelerators, Policies, path_queries, pools
    from deeprecsys.search.history import Evaluation
    from deeprecsys.search.rank import Ranking
    from deeprecsys.simulate.trial import SamplePath

    rng = np.random.default_rng(0)
    alone = None if q.search else q.present
    queries = min(q.queries, path_queries([type(alone)])) if alone else q.queries
    sizes = rng.choice(np.asarray(q.sizes, np.int32), queries)
    unit_s = np.cumsum(rng.exponential(size=queries))
    allowed, target = q.allowance, q.allowance.target(q.target)
    profile, mix = allowed.profile(q.profile), np.asarray(q.sizes, np.int32)
    node = pools(profile, q.workers, Accelerators(allowed.profile(q.gpu), q.gpus) if q.gpu else None)
    path = SamplePath(*node, lambda rate: (unit_s / rate, sizes), target)
    policies = Policies(target, q.workers, q.largest, mix, q.gpu is not None)

    def carried(found: Evaluation) -> float:
        return min(found.qps, allowed.most_qps)

    if alone:
        hint = policies.saturation_qps(profile, alone.batch_size or q.largest)
        qps = carried(Evaluation(alone, Ranking(path, target, hint).score(alone)))
        return BestPolicy(alone, qps, qps)
    found = policies.ranked(path, profile, first=q.present)
    if not found.search.best:
        return BestPolicy(found.first.policy, 0.0, 0.0)
    return BestPolicy(found.best, carried(found.search.best), carried(found.first))


class Resimulator:
    """The process, asked from an event loop. Start it lazily; `close` it."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._asking = asyncio.Lock()

    async def best(self, question: Question) -> BestPolicy:
        """`best_policy`, elsewhere.

        Raises:
            NodeError: the process died; the next question starts another. OSError: it cannot be started.
        """
        async with self._asking:
            answer = await self._ask(question.to_json())
        return BestPolicy(from_description(answer["policy"]), answer["capacity_qps"], answer["present_qps"])

    async def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        if self._process is not None and self._process.returncode is not None:
            log.warning("the simulation's process died (%d); it is started again", self._process.returncode)
            await self.close()
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "deeprecsys.api.retuning.resimulate", str(os.getpid()),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=LINE_BYTES,
                env=os.environ | {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}, start_new_session=True,
            )  # fmt: skip
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n")
            await process.stdin.drain()
            line = await process.stdout.readline()
        except ConnectionError:
            line = b""
        except asyncio.CancelledError:
            await self.close()
            raise
        if not line:
            await self.close()
            raise NodeError("the simulation's process died")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        if process.stdin:
            process.stdin.close()
        await process.wait()


def main() -> None:
    die_with_parent(int(sys.argv[1]), signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    for line in sys.stdin:
        found = best_policy(Question.from_json(json.loads(line)))
        answer = {
            "policy": found.policy.describe(),
            "capacity_qps": found.capacity_qps,
            "present_qps": found.present_qps,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

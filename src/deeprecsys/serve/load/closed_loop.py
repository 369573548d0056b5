"""A closed loop of queries on a server of this machine, in a process of its own.

Started as `python -m deeprecsys.serve.load.closed_loop PARENT`. Its standard input is a pickled `Job`, of the
process that starts it; on its standard output it prints the answers so far, as a line of JSON, when the
measured time begins, and again when it ends.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import uvloop

from deeprecsys.node.runtime.cores import die_with_parent
from deeprecsys.serve.load.client import ConnectionPool
from deeprecsys.serve.load.offer import Requests, model_path
from deeprecsys.zoo.schema import Schema


@dataclass(frozen=True)
class Job:
    """What is to be sent where.

    Attributes:
        sizes: of the queries, in items; timeout_s: that they state.
        connections: with one open query each.
        warm_up_s: before `seconds` are measured.
    """

    port: int
    model: str
    schema: Schema
    sizes: Sequence[int]
    timeout_s: float
    connections: int
    warm_up_s: float
    seconds: float


async def run(job: Job) -> None:
    """Send queries on each connection, one after the other, until the time is over."""
    pool, loop, path = (
        ConnectionPool("127.0.0.1", job.port),
        asyncio.get_running_loop(),
        model_path(job.model),
    )
    requests = Requests(job.schema, max(job.sizes), 0, 1, job.timeout_s)
    sizes, answers = cycle(job.sizes), Counter(served=0, other=0)
    until_s = loop.time() + job.warm_up_s + job.seconds

    async def send() -> None:
        while loop.time() < until_s:
            body, head = requests.body(next(sizes), 0)
            headers = ("Inference-Header-Content-Length", str(head))
            answer = await pool.request("POST", f"{path}/infer", body, headers)
            answers["served" if answer.status == 200 else "other"] += 1

    async def begin() -> None:
        await asyncio.sleep(job.warm_up_s)
        print(json.dumps(answers), flush=True)

    await asyncio.gather(begin(), *(send() for _ in range(job.connections)))
    print(json.dumps(answers), flush=True)
    pool.close()


def main() -> None:
    die_with_parent(int(sys.argv[1]), signal.SIGKILL)
    uvloop.run(run(pickle.load(sys.stdin.buffer)))


if __name__ == "__main__":
    main()

"""Live retuning: looks at the load, has it simulated in the background, and changes the policy."""

from __future__ import annotations

import asyncio
import logging
import time

from deeprecsys.api.retuning.decision import RetuneSettings, decide, offered_load, searched
from deeprecsys.api.retuning.resimulate import Question, Resimulator
from deeprecsys.core.errors import NodeError
from deeprecsys.node.service.hosted_model import HostedModel
from deeprecsys.node.service.service import Service

log = logging.getLogger("deeprecsys.serve")


class Retuner:
    """Retunes every model of a service that is not pinned. Make `run` a task; cancel it to end.

    Each model is simulated as if it had all workers to itself: policies are compared, not shares.
    """

    def __init__(self, service: Service, settings: RetuneSettings | None = None) -> None:
        self._service = service
        self._settings = settings or RetuneSettings()
        self._simulation = Resimulator()

    async def run(self) -> None:
        """Look at every model, every `every_s` seconds."""
        try:
            while True:
                await asyncio.sleep(self._settings.every_s)
                for model in self._service.retunable:
                    try:
                        await self.look(model)
                    except Exception:  # queries are served all the same, and the next look may succeed
                        log.exception("%s: live retuning failed; its policy stays", model.name)
        finally:
            await self._simulation.close()

    async def look(self, served: HostedModel) -> None:
        """Look at one model's load once, and change its policy where that is worth it."""
        settings, config, present = self._settings, served.config, served.policy
        load = offered_load(served.offered, time.monotonic(), settings)
        if load is None or not searched(present, config.gpu_profile is not None):
            return
        node = self._service.config
        question = Question(
            config.profile,
            load.sizes,
            len(node.cores),
            config.target,
            config.max_items,
            present,
            settings.path_queries,
            config.gpu_profile,
            node.gpus,
            served.allowance,
        )
        try:
            found = await self._simulation.best(question)
        except (NodeError, OSError) as e:
            log.warning("%s: its load could not be simulated: %s", served.name, e)
            return
        if served.policy != present or served.point.pinned:
            return  # it was changed meanwhile
        now = time.monotonic()
        change = decide(present, load, found, served.point.since_s, now, settings)
        if change:
            self._service.adopt(served.name, change.policy, change.why, change.capacity_qps)
        else:
            self._service.estimate(served.name, found.present_qps)

"""How `tune` searches: in virtual time, on a node's batch times, or by climbs under live load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from deeprecsys.api.policies import class_of
from deeprecsys.api.trials import within_budget_s
from deeprecsys.api.virtual import NodeModel, path_queries, possible
from deeprecsys.core.errors import positive
from deeprecsys.core.policy import Policy
from deeprecsys.core.target import Target
from deeprecsys.search.climbs import HillClimb
from deeprecsys.search.events import Progress
from deeprecsys.search.probes import Trial
from deeprecsys.search.rank import Ranking
from deeprecsys.search.result import Settings
from deeprecsys.search.tuner import Beside, TuneResult, TuneSettings, tune_by_model
from deeprecsys.search.tuner import tune as tune_live


@dataclass(frozen=True)
class Searching:
    """A search of the best policy of a node.

    Attributes:
        node: its model; live: runs its trials; usual: eager torch's baseline, which takes turns.
    """

    node: NodeModel
    live: Trial
    usual: Beside | None = None
    progress: Progress = lambda event: None

    def climb(self, settings: TuneSettings, policies: Sequence[str] = ()) -> TuneResult:
        """By live trials: by the paper's climb, and by climbs over the policies named.

        Every candidate runs under live load.
        """
        node, tried = self.node, self.node.policies
        kinds = [class_of(text)[0] for text in policies]
        return tune_live(
            self.live,
            node.target,
            static=tried.static,
            search=tried.search(kinds) if kinds else HillClimb(tried.batches, tried.thresholds),
            hint_qps=node.saturation_qps(),
            settings=settings,
            seed=node.workload.seed,
            eager=self.usual,
            progress=self.progress,
        )

    def by_model(
        self, kinds: Sequence[type[Policy]], ranking: Ranking | None, budget_s: float | None
    ) -> TuneResult:
        """In virtual time; only what was chosen runs live.

        Args:
            kinds: the policies to search.
            ranking: what was ranked on this profile before; None starts anew.
            budget_s: seconds of the live trials in blocks.
        """
        node, target = self.node, self.node.target
        ranking = ranking or Ranking(node.path(path_queries(kinds)), target, node.saturation_qps())
        return tune_by_model(
            self.live,
            node.trial(),
            ranking,
            target,
            static=node.policies.static,
            search=node.policies.search(possible(kinds, node.profile)),
            settings=TuneSettings.by_model(target, budget_s) if budget_s else TuneSettings.by_model(target),
            seed=node.workload.seed,
            eager=self.usual,
            progress=self.progress,
        )


def tune_settings(target: Target, budget_s: float | None) -> TuneSettings:
    """The live settings, or these scaled so that the climb takes about `budget_s`."""
    settings = TuneSettings.live(target)
    if budget_s is None:
        return settings
    factor = positive("--budget", budget_s) / settings.climb_budget_s
    usual = settings.candidate.trial_s
    trial_s = within_budget_s(usual, target, factor)

    def scaled(part: Settings) -> Settings:
        return replace(part, trial_s=trial_s, budget_s=factor * part.budget_s)

    return replace(
        settings,
        climb_budget_s=budget_s,
        candidate=scaled(settings.candidate),
        refine=scaled(settings.refine),
        confirm=replace(settings.confirm, trial_s=trial_s / usual * settings.confirm.trial_s),
    )

"""Capacity search, hill climbs, profiler and tuner, for live and for virtual trials alike."""

from deeprecsys.search.capacity import CapacityResult, Outcome, Settings, capacity
from deeprecsys.search.climbs import HillClimb
from deeprecsys.search.confirm import Candidate, Confirmed, ConfirmSettings, confirm
from deeprecsys.search.events import (
    CapacityDone,
    CapacityStarted,
    Cost,
    Event,
    PhaseStarted,
    ProbeDone,
    Progress,
    TrialDone,
    TrialStarted,
)
from deeprecsys.search.history import Evaluation, KnownCapacity, Score, Search, batch_sizes, thresholds
from deeprecsys.search.probes import Probe, Trial, Verdict
from deeprecsys.search.profiler import Measure, ProfilePlan, profile
from deeprecsys.search.tuner import TuneResult, TuneSettings, tune

__all__ = [
    "Candidate",
    "CapacityDone",
    "CapacityResult",
    "CapacityStarted",
    "ConfirmSettings",
    "Confirmed",
    "Cost",
    "Evaluation",
    "Event",
    "HillClimb",
    "KnownCapacity",
    "Measure",
    "Outcome",
    "PhaseStarted",
    "Probe",
    "ProbeDone",
    "ProfilePlan",
    "Progress",
    "Score",
    "Search",
    "Settings",
    "Trial",
    "TrialDone",
    "TrialStarted",
    "TuneResult",
    "TuneSettings",
    "Verdict",
    "batch_sizes",
    "capacity",
    "confirm",
    "profile",
    "thresholds",
    "tune",
]

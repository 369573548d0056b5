"""Capacity search, hill climb, exhaustive sweep, profiler and the tuner, in whichever world trials run."""

from deeprecsys.tune.capacity import CapacityResult, Outcome, Settings, capacity
from deeprecsys.tune.confirm import Candidate, Confirmed, ConfirmSettings, confirm
from deeprecsys.tune.events import (
    CapacityDone,
    CapacityStarted,
    Event,
    PhaseStarted,
    ProbeDone,
    Progress,
    TrialDone,
    TrialStarted,
)
from deeprecsys.tune.hill_climb import HillClimb
from deeprecsys.tune.probe import Probe, Trial, Verdict
from deeprecsys.tune.profiler import Measure, ProfilePlan, profile
from deeprecsys.tune.search import Known, Score, Search, Told, batch_sizes, thresholds
from deeprecsys.tune.sweep import Sweep
from deeprecsys.tune.tuner import Cost, TuneResult, TuneSettings, tune

__all__ = [
    "Candidate",
    "CapacityDone",
    "CapacityResult",
    "CapacityStarted",
    "ConfirmSettings",
    "Confirmed",
    "Cost",
    "Event",
    "HillClimb",
    "Known",
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
    "Sweep",
    "Told",
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

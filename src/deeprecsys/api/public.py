"""The public names: what `import deeprecsys` offers."""

from deeprecsys.api.experiment import Experiment
from deeprecsys.api.profiles import load_profile, profile
from deeprecsys.api.progress import Interrupted, ProgressCallback
from deeprecsys.api.runs import (
    BenchRun,
    CapacityRun,
    ProfileRun,
    QualityRun,
    SimulateRun,
    TuneRun,
    load_run,
)
from deeprecsys.api.serve import Listening, serve
from deeprecsys.api.server_process import ServerProcess
from deeprecsys.api.simulate import simulate
from deeprecsys.api.trials import bench, capacity
from deeprecsys.api.tune import quality, tune
from deeprecsys.core.errors import (
    InputError,
    NodeError,
    NotConfirmedError,
    TargetUnreachableError,
    TrialsVoidError,
)
from deeprecsys.core.policy import (
    Adaptive,
    BentoML,
    Clipper,
    Coalescing,
    Deadline,
    DeepRecSched,
    Earliest,
    Offload,
    Policy,
    Static,
    TFServing,
    Triton,
)
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.core.target import Target
from deeprecsys.node.node import Node, NodeConfig
from deeprecsys.workload.stream import Workload

__all__ = [
    "Adaptive",
    "BenchRun",
    "BentoML",
    "CapacityRun",
    "Clipper",
    "Coalescing",
    "Deadline",
    "DeepRecSched",
    "Earliest",
    "Experiment",
    "InputError",
    "Interrupted",
    "LatencyProfile",
    "Listening",
    "Node",
    "NodeConfig",
    "NodeError",
    "NotConfirmedError",
    "Offload",
    "Policy",
    "ProfileRun",
    "ProgressCallback",
    "QualityRun",
    "ServerProcess",
    "SimulateRun",
    "Static",
    "TFServing",
    "Target",
    "TargetUnreachableError",
    "TrialsVoidError",
    "Triton",
    "TuneRun",
    "Workload",
    "bench",
    "capacity",
    "load_profile",
    "load_run",
    "profile",
    "quality",
    "serve",
    "simulate",
    "tune",
]

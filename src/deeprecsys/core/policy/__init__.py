"""Policies: how queries become batches on devices. Each is a value; the dispatcher carries it out."""

from deeprecsys.core.policy.adaptive import Adaptive
from deeprecsys.core.policy.base import (
    BATCH_SIZE,
    CPU,
    DEVICE_BATCH,
    FINEST,
    GPU,
    LATENCY,
    OFFLOAD_ABOVE,
    WHOLE_BATCH,
    BatchDecision,
    Defer,
    Hold,
    Knob,
    Ladder,
    LineView,
    Placement,
    Policy,
    PolicyBase,
    PolicyState,
    Setting,
    Take,
    View,
)
from deeprecsys.core.policy.bentoml import BentoML
from deeprecsys.core.policy.clipper import Clipper
from deeprecsys.core.policy.coalescing import Coalescing
from deeprecsys.core.policy.deadline import Deadline
from deeprecsys.core.policy.deeprecsched import DeepRecSched
from deeprecsys.core.policy.earliest import Earliest
from deeprecsys.core.policy.offload import Offload
from deeprecsys.core.policy.static import Static
from deeprecsys.core.policy.tf_serving import TFServing
from deeprecsys.core.policy.triton import Triton

__all__ = [
    "BATCH_SIZE",
    "CPU",
    "DEVICE_BATCH",
    "FINEST",
    "GPU",
    "LATENCY",
    "OFFLOAD_ABOVE",
    "WHOLE_BATCH",
    "Adaptive",
    "BatchDecision",
    "BentoML",
    "Clipper",
    "Coalescing",
    "Deadline",
    "DeepRecSched",
    "Defer",
    "Earliest",
    "Hold",
    "Knob",
    "Ladder",
    "LineView",
    "Offload",
    "Placement",
    "Policy",
    "PolicyBase",
    "PolicyState",
    "Setting",
    "Static",
    "TFServing",
    "Take",
    "Triton",
    "View",
]

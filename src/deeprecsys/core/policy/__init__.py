"""Policies: how queries become batches on devices. Each is a value; the dispatcher carries it out."""

from deeprecsys.core.policy.adaptive import Adaptive
from deeprecsys.core.policy.bentoml import BentoML
from deeprecsys.core.policy.clipper import Clipper
from deeprecsys.core.policy.coalescing import Coalescing
from deeprecsys.core.policy.deadline import Deadline
from deeprecsys.core.policy.deeprecsched import DeepRecSched, Static
from deeprecsys.core.policy.offload import Earliest, Offload
from deeprecsys.core.policy.base import (
    CPU,
    GPU,
    Defer,
    Forming,
    Hold,
    LineView,
    Placement,
    Policy,
    PolicyBase,
    Rules,
    Take,
    View,
)
from deeprecsys.core.policy.tf_serving import TFServing
from deeprecsys.core.policy.triton import Triton

__all__ = [
    "CPU",
    "GPU",
    "Adaptive",
    "BentoML",
    "Clipper",
    "Coalescing",
    "Deadline",
    "DeepRecSched",
    "Defer",
    "Earliest",
    "Forming",
    "Hold",
    "LineView",
    "Offload",
    "Placement",
    "Policy",
    "PolicyBase",
    "Rules",
    "Static",
    "TFServing",
    "Take",
    "Triton",
    "View",
]

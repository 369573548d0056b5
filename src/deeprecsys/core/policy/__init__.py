"""Policies: how queries become batches on devices. Each is a value; the dispatcher carries it out."""

from deeprecsys.core.policy.adaptive import Adaptive
from deeprecsys.core.policy.bentoml import LeastSquares
from deeprecsys.core.policy.clipper import AdditiveIncrease
from deeprecsys.core.policy.coalescing import Coalescing
from deeprecsys.core.policy.deadline import DeadlineOrder
from deeprecsys.core.policy.fixed import DeepRecSched, Static
from deeprecsys.core.policy.offload import CoalescedOffload, EarliestFinish
from deeprecsys.core.policy.protocol import (
    CPU,
    GPU,
    Defer,
    Forming,
    Hold,
    LineView,
    Placement,
    Plain,
    Policy,
    Rules,
    Take,
    View,
)
from deeprecsys.core.policy.tf_serving import FixedSplit
from deeprecsys.core.policy.triton import DynamicBatching

__all__ = [
    "CPU",
    "GPU",
    "Adaptive",
    "AdditiveIncrease",
    "CoalescedOffload",
    "Coalescing",
    "DeadlineOrder",
    "DeepRecSched",
    "Defer",
    "DynamicBatching",
    "EarliestFinish",
    "FixedSplit",
    "Forming",
    "Hold",
    "LeastSquares",
    "LineView",
    "Placement",
    "Plain",
    "Policy",
    "Rules",
    "Static",
    "Take",
    "View",
]

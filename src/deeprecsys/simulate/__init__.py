"""Virtual time: the dispatcher of the live node, driven by a latency profile instead of by workers."""

from deeprecsys.simulate.driver import ProfileService, ServiceTimes, simulate
from deeprecsys.simulate.trial import SamplePath, VirtualLoad, VirtualNode, trial

__all__ = [
    "ProfileService",
    "SamplePath",
    "ServiceTimes",
    "VirtualLoad",
    "VirtualNode",
    "simulate",
    "trial",
]

"""Virtual time: the dispatcher of the live node, driven by a latency profile instead of by workers."""

from deeprecsys.simulate.driver import ProfileService, ServiceTimes, simulate
from deeprecsys.simulate.trial import VirtualLoad, VirtualNode

__all__ = ["ProfileService", "ServiceTimes", "VirtualLoad", "VirtualNode", "simulate"]

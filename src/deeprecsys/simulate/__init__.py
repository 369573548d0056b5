"""Virtual time: the dispatcher of the live node, driven by a latency profile instead of by workers."""

from deeprecsys.simulate.driver import ProfileService, Service, simulate
from deeprecsys.simulate.trial import Load, VirtualNode

__all__ = ["Load", "ProfileService", "Service", "VirtualNode", "simulate"]

"""Workloads: arrivals × sizes × feature locality, with a seed → a stream of queries."""

from deeprecsys.workload.stream import Stream, Workload

__all__ = ["Stream", "Workload"]

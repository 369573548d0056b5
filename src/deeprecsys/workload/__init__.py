"""What a node is asked: arrivals × sizes × feature locality, with a seed → a seeded stream of queries."""

from deeprecsys.workload.stream import Stream, Workload

__all__ = ["Stream", "Workload"]

"""The plots of a report. Plain values in, a figure out; none raises on a trial in which nothing worked."""

from deeprecsys.report.plots.capacity import PlottedCandidate, latency_by_rate, qps_by_batch_size
from deeprecsys.report.plots.latency import Curve, latency_tail
from deeprecsys.report.plots.look import Illustration, png, svg
from deeprecsys.report.plots.trial import time_line, where_time_goes

__all__ = [
    "Curve",
    "Illustration",
    "PlottedCandidate",
    "latency_by_rate",
    "latency_tail",
    "png",
    "qps_by_batch_size",
    "svg",
    "time_line",
    "where_time_goes",
]

"""What a profile says a node can do, before anything is run under load."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.profile import LatencyProfile
from deeprecsys.core.query import Query, cut


def mean_work_s(profile: LatencyProfile, batch_size: int, sizes: NDArray[np.int32], busy: int) -> float:
    """Mean worker-seconds per query, cut at `batch_size`, while `busy` workers are busy.

    Args:
        sizes: a sample of query sizes.
    """
    values, counts = np.unique(sizes, return_counts=True)
    work = [
        sum(profile.seconds(s.items, busy) for s in cut(Query(0, int(n), 0.0), batch_size)) for n in values
    ]
    return float(np.average(work, weights=counts))


def saturation_qps(profile: LatencyProfile, batch_size: int, sizes: NDArray[np.int32], workers: int) -> float:
    """The rate at which all workers would be busy all the time: workers / E[work] (docs/facts.md §6.1)."""
    return workers / mean_work_s(profile, batch_size, sizes, workers)

"""The least number of late jobs on one machine, compiled. Only `bounds.path` imports this: it loads numba.

Jobs with release dates, and due dates in the same order: the algorithm of Kise, Ibaraki and Mine
("A solvable case of the one-machine scheduling problem with ready and due times", Operations Research
26(1), 1978; a complete proof in Li, Chen and Tang, Operations Research 58(2), 2010). Jobs are added in
order of release; when the one just added would be late, the job is given up without which the rest end
earliest. Preemption gains nothing where the orders agree, so the number also holds with it.

Without job l the rest end earlier by min(p_l, m_l), with m_l the shortest wait of a job after l: nothing
moves further than that, for a job does not start before its release. The largest p from l on falls in l
and m_l rises, so the best l is where they cross. A tree over the jobs with the largest p and the
shortest wait of each subtree finds it in log n steps, instead of the n of the original.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deeprecsys.jit import compiled

Ints = NDArray[np.int64]
FAR = 1 << 61
"""Longer than any wait."""


@compiled
def _set_work(longest: Ints, leaves: int, i: int, work: int) -> None:
    """Job i takes `work`; 0 is no job."""
    node = leaves + i
    longest[node] = work
    while node > 1:
        node >>= 1
        longest[node] = max(longest[2 * node], longest[2 * node + 1])


@compiled
def _set_wait(shortest: Ints, moved: Ints, leaves: int, i: int, wait: int) -> None:
    """Set how long job i waits. Kept at leaf i - 1, so that the leaves from l on hold the jobs after l."""
    node = leaves + i - 1
    shortest[node] = wait
    above = node >> 1
    while above:
        shortest[node] -= moved[above]
        above >>= 1
    while node > 1:
        node >>= 1
        shortest[node] = min(shortest[2 * node], shortest[2 * node + 1]) + moved[node]


@compiled
def _shorten_after(shortest: Ints, moved: Ints, leaves: int, i: int, by: int) -> None:
    """All jobs after i wait that much less."""
    node = leaves + i
    shortest[node] -= by
    while node > 1:
        if node & 1 == 0:
            shortest[node + 1] -= by
            moved[node + 1] -= by
        node >>= 1
        shortest[node] = min(shortest[2 * node], shortest[2 * node + 1]) + moved[node]


@compiled
def _give_up(longest: Ints, shortest: Ints, moved: Ints, leaves: int) -> tuple[int, int]:
    """The job without which the rest end earliest, and how much earlier."""
    node, p, wait, offset = 1, 0, FAR, 0  # p, wait: the extremes to the right of the node
    while node < leaves:
        offset += moved[node]
        right = 2 * node + 1
        p_right, wait_right = max(p, longest[right]), min(wait, shortest[right] + offset)
        if p_right >= wait_right:
            node = right
        else:
            node, p, wait = right - 1, p_right, wait_right
    here = min(longest[node], wait, shortest[node] + offset)
    if here > p:
        return node - leaves, here
    node = 1  # the last job that takes p
    while node < leaves:
        node = 2 * node + 1 if longest[2 * node + 1] >= p else 2 * node
    return node - leaves, p


@compiled
def late_jobs(release: Ints, work: Ints, slack: int, enough: int) -> int:
    """The least number of jobs that end later than `slack` after their release.

    Args:
        release: [n] rising, in ticks.
        work: [n] ticks, above 0 (a job of no work is never late) and below 2**60 in all.
        slack: ticks from a release to its due date.
        enough: stop at this number of late jobs.
    """
    n = len(release)
    leaves = 1
    while leaves < n:
        leaves *= 2
    longest = np.zeros(2 * leaves, np.int64)
    shortest = np.full(2 * leaves, FAR, np.int64)
    moved = np.zeros(2 * leaves, np.int64)
    late, end = 0, release[0] if n else 0
    for j in range(n):
        if work[j] > slack:
            late += 1
            if late >= enough:
                return late
            continue
        start = max(end, release[j])
        end = start + work[j]
        _set_work(longest, leaves, j, work[j])
        if j > 0:
            _set_wait(shortest, moved, leaves, j, start - release[j])
        if end > release[j] + slack:
            out, saved = _give_up(longest, shortest, moved, leaves)
            _set_work(longest, leaves, out, 0)
            if out > 0:
                _set_wait(shortest, moved, leaves, out, FAR)
            _shorten_after(shortest, moved, leaves, out, saved)
            end -= saved
            late += 1
            if late >= enough:
                return late
    return late

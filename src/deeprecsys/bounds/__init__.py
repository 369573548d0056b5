"""What no policy can exceed: the highest rates at which a target could be met (docs/facts.md §6).

| bound | no rate exceeds it of |
|---|---|
| `o_drop` | any policy: pathwise, whatever the order and the cuts |
| `capacity` | any policy, in the long run, that serves every query |
| `o_fcfs` | one server as fast as all cores together, first come first served: the target to quote |
| `two_pools` | any policy over a CPU and accelerators, in the long run, whose every query is on time |
| `planning_estimate` | nothing; it is what to expect |

Each comes for policies that never mix queries in one batch, and, given the work W_c of
`coalesced_work`, for those that do. A fraction of a bound always names it.

`o_fcfs` is not a theorem about real pools, in two ways (examples: tests/bounds/test_exceeding.py):
k cores, unlike one server k times as fast, let a short query overtake a long batch; and a query that is
late anyhow may run in batches longer than the target, which can cost less work. The first is worth at
most the longest batch: a first-come-first-served policy without mixed batches, none of them longer than
r nor than the target, stays within the `o_fcfs` of a target longer by r (k - 1) / k. Both matter where a
batch takes about as long as the target; where it takes a tenth of it they do not show. `o_drop` has
neither gap.
"""

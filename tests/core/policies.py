"""Policies drawn at random, of every kind: what holds for a policy is tested on all of them."""

from hypothesis import strategies as st

from deeprecsys.core.policy import (
    Adaptive,
    BentoML,
    Clipper,
    Coalescing,
    Deadline,
    DeepRecSched,
    Earliest,
    Offload,
    Static,
    TFServing,
    Triton,
    UserFirst,
)

SIZES = st.integers(1, 40)
WAITS = st.just(0.0) | st.floats(1e-4, 0.05)


def pairs(kind):
    """Policies of two sizes, the second at most the first."""
    return st.tuples(SIZES, SIZES).map(lambda p: kind(max(p), min(p)))


OFFLOADING = {
    "offload": st.builds(Offload, SIZES, st.integers(0, 60), st.integers(1, 200)),
    "earliest": st.builds(Earliest, SIZES, st.integers(0, 60), st.integers(1, 200)),
}
"""Policies that need an accelerator, whatever their knobs."""
STAGED = {"user-first": st.builds(UserFirst, SIZES)}
"""Policies that need a model with a user stage."""
BY_NAME = {
    "static": st.builds(Static, SIZES),
    "deeprecsched": st.builds(DeepRecSched, SIZES, st.none() | st.integers(0, 60)),
    "adaptive": pairs(Adaptive),
    "coalescing": pairs(Coalescing),
    "deadline": st.builds(Deadline, SIZES, st.floats(1e-3, 0.1)),
    "triton": st.builds(Triton, SIZES, WAITS),
    "tf-serving": st.builds(TFServing, SIZES, WAITS),
    "bentoml": st.builds(BentoML, SIZES),
    "clipper": st.builds(Clipper, st.floats(1e-3, 0.1), st.integers(1, 20)),
    **OFFLOADING,
    **STAGED,
}
POLICIES = st.one_of(*BY_NAME.values())

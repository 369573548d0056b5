"""Policies by name: every one with its argument and its defaults, and what cannot be, in one line."""

from __future__ import annotations

from typing import Any

import pytest

from deeprecsys.api.policies import FORMS, POLICIES, policy_of
from deeprecsys.core.errors import InputError
from deeprecsys.core.policy import (
    Adaptive,
    BentoML,
    Clipper,
    Coalescing,
    Deadline,
    DeepRecSched,
    Earliest,
    Offload,
    Policy,
    Static,
    TFServing,
    Triton,
)
from deeprecsys.core.target import Target
from tests.core.policies import BY_NAME

TARGET = Target(latency_s=0.1)


def policy(
    text: str, batch_size: int | None = None, above: int | None = None, target: Target | None = TARGET
) -> Policy:
    return policy_of(text, batch_size, above, largest=1000, workers=40, target=target)


@pytest.mark.parametrize(
    ("text", "by_default", "of_64"),
    [
        ("static", Static(25), Static(64)),
        ("deeprecsched", DeepRecSched(25), DeepRecSched(64)),
        ("adaptive", Adaptive(25, 6), Adaptive(64, 16)),
        ("adaptive:5", Adaptive(25, 5), Adaptive(64, 5)),
        ("coalescing", Coalescing(25, 6), Coalescing(64, 16)),
        ("Coalescing:25", Coalescing(25, 25), Coalescing(64, 25)),
        ("deadline", Deadline(25, 0.1), Deadline(64, 0.1)),
        ("triton", Triton(1000, 0.0), Triton(64, 0.0)),
        ("triton:2.5", Triton(1000, 0.0025), Triton(64, 0.0025)),
        ("tf-serving", TFServing(25, 0.0), TFServing(64, 0.0)),
        ("tf-serving:3", TFServing(25, 0.003), TFServing(64, 0.003)),
        ("bentoml", BentoML(1000), BentoML(64)),
        ("offload", Offload(25, 25, 2000), Offload(64, 64, 2000)),
        ("offload:512", Offload(25, 25, 512), Offload(64, 64, 512)),
        ("earliest", Earliest(25, 25, 2000), Earliest(64, 64, 2000)),
        ("earliest:1", Earliest(25, 25, 1), Earliest(64, 64, 1)),
    ],
)
def test_every_name_with_and_without_a_batch_size(text: str, by_default: Policy, of_64: Policy) -> None:
    assert policy(text) == by_default
    assert policy(text, 64) == of_64


def test_clipper_finds_its_own_batch_size() -> None:
    assert policy("clipper") == Clipper(0.1, 16)
    assert policy("clipper:4") == Clipper(0.1, 4)
    with pytest.raises(InputError, match=r"--batch-size: expected none with policy clipper.*, got 64"):
        policy("clipper", 64)


def test_the_names_are_those_that_the_policies_say_of_themselves() -> None:
    assert set(POLICIES) == set(BY_NAME)
    assert all(name in FORMS for name in POLICIES)
    for name in POLICIES:
        assert policy(name).describe()["policy"] == name


def test_a_finest_cut_is_at_least_one_item() -> None:
    assert policy("adaptive", 2) == Adaptive(2, 1)


def test_an_offload_threshold_is_for_the_policy_that_has_one() -> None:
    assert policy("deeprecsched", 64, 300) == DeepRecSched(64, 300)
    assert policy("offload:700", 64, 300) == Offload(64, 300, 700)
    assert policy("earliest:700", 64, 300) == Earliest(64, 300, 700)
    with pytest.raises(InputError, match=r"--offload-above: expected policy deeprecsched, .*, got adaptive"):
        policy("adaptive", 64, 300)


@pytest.mark.parametrize("name", ["deadline", "clipper"])
def test_a_policy_that_goes_by_the_target_needs_one(name: str) -> None:
    with pytest.raises(InputError, match=f"--sla-ms: expected a target .* policy {name} needs one"):
        policy(name, target=None)
    assert policy("adaptive", target=None) == Adaptive(25, 6)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("trition",), "unknown policy 'trition': did you mean 'triton'"),
        (("",), "unknown policy ''"),
        (("static:5",), "--policy static: arguments: expected none, got '5'"),
        (("bentoml:",), "--policy bentoml: arguments: expected none"),
        (("adaptive:x",), "--policy adaptive: FINEST: expected a number, got 'x'"),
        (("adaptive:",), "--policy adaptive: FINEST: expected a number, got ''"),
        (("adaptive:1,2",), "--policy adaptive: arguments: expected at most 1 (FINEST), got '1,2'"),
        (("adaptive:2.5",), "--policy adaptive: FINEST: expected an integer of at least 1, got 2.5"),
        (("coalescing:0",), "--policy coalescing: FINEST: expected an integer of at least 1, got 0"),
        (("coalescing:26",), "finest batch: expected at most the batch size of 25, got 26"),
        (("triton:-1",), "--policy triton: DELAY_MS: expected a number from 0"),
        (("triton:nan",), "--policy triton: DELAY_MS: expected a number, got 'nan'"),
        (("tf-serving:inf",), "--policy tf-serving: TIMEOUT_MS: expected a number, got 'inf'"),
        (("clipper:0",), "--policy clipper: STEP: expected an integer of at least 1, got 0"),
        (("static", 0), "batch size: expected at least 1 item, got 0"),
        (("deeprecsched", 8, -1), "offload above: expected at least 0 items, got -1"),
    ],
)
def test_what_cannot_be_gets_one_line(args: tuple[Any, ...], said: str) -> None:
    with pytest.raises(InputError) as error:
        policy(*args)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_policy_given_as_an_object_is_taken_as_it_is() -> None:
    mine = Coalescing(64, 16)
    assert policy_of(mine, None, None, largest=1000, workers=4, target=TARGET) is mine
    with pytest.raises(InputError, match="--batch-size, --offload-above: expected none with a policy"):
        policy_of(mine, 8, None, largest=1000, workers=4, target=TARGET)


def test_an_object_that_cuts_queries_is_refused_where_they_stay_whole() -> None:
    whole = {"largest": 1000, "workers": 4, "target": TARGET, "splits": False}
    assert policy_of(Static(1000), None, None, **whole) == Static(1000)
    with pytest.raises(InputError, match="--batch-size: expected none or at least the largest query, 1000"):
        policy_of(Static(500), None, None, **whole)
    with pytest.raises(InputError, match=r"--policy: expected one of .*, got adaptive"):
        policy_of(Adaptive(1000, 1000), None, None, **whole)

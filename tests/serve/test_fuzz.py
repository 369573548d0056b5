"""Some hundreds of the bodies that `benchmarks/serve/fuzz.py` sends by the ten thousands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deeprecsys.serve.addresses import Admin
from tests.serve.asgi import Direct
from tests.serve.fuzz import (
    DirectRpc,
    admin_requests,
    check_http,
    check_jagged,
    grpc_requests,
    http_requests,
    jagged_faults,
)
from tests.serve.loader import Loader, http
from tests.serve.stand_in import StandIn

ADMIN = http(Loader.ready_to_load(), Admin(Path(__file__).parent))
HTTP, RPC = Direct(StandIn.of()), DirectRpc(StandIn.of())
FEW = settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))


@FEW
@given(request=http_requests, pieces=st.integers(1, 3))
def test_whatever_comes_over_http_gets_an_answer(request: Any, pieces: int) -> None:
    check_http(HTTP, request, pieces)


@FEW
@given(request=admin_requests, pieces=st.integers(1, 3))
def test_whatever_comes_to_change_weights_gets_an_answer(request: Any, pieces: int) -> None:
    check_http(ADMIN, request, pieces)


@FEW
@given(raw=grpc_requests)
def test_whatever_comes_over_grpc_gets_an_answer(raw: bytes) -> None:
    RPC.check(raw)


@FEW
@given(fault=jagged_faults(), form=st.sampled_from(["json", "binary", "grpc"]))
def test_lengths_that_do_not_fit_are_refused_by_name(fault: Any, form: str) -> None:
    check_jagged(HTTP, RPC, fault, form)

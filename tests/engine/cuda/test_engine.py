"""The device's engine against the reference: on the CPU everywhere, on a GPU where there is one."""

from __future__ import annotations

import numpy as np
import pytest

from deeprecsys.core.errors import InputError
from deeprecsys.engine import build
from deeprecsys.engine.cuda import DeviceEngine
from deeprecsys.node.runtime.worker import one_by_one
from deeprecsys.zoo import MODELS
from tests.engine.cuda.conftest import assembly, expected, slices_of

SPANS = [(0, 5), (3, 4), (7, 40), (0, 16), (2, 33)]
BOUND = {"fp32": 1e-5, "tf32": 5e-3, "bf16": 6e-2, "fp16": 1e-2}
"""Of a score's absolute error, scores being of order 1."""


@pytest.mark.parametrize("name", [n for n in MODELS if not n.endswith("-jagged")])
def test_scores_equal_the_references_whatever_shares_the_batch(name: str, device: str) -> None:
    a = assembly(name)
    engine = DeviceEngine(a, device, precision="fp32", largest=32)
    slices = slices_of(a, SPANS)
    engine.score(slices)
    for s, y in zip(slices, expected(a, slices), strict=True):
        np.testing.assert_allclose(s.out, y, atol=1e-4 if device == "cuda" else BOUND["fp32"], rtol=1e-4)
    assert np.std(np.concatenate([s.out for s in slices])) > 1e-4, "or a wrong row would not show"


def test_slots_used_again_leave_nothing_of_the_batch_before(device: str) -> None:
    a = assembly("wnd")
    engine = DeviceEngine(a, device, precision="fp32", largest=64)
    for seed, spans in enumerate(([(0, 60)], [(0, 3)], [(1, 2), (0, 30)], [(0, 200)], [(5, 6)])):
        slices = slices_of(a, spans, seed)
        engine.score(slices)
        for s, y in zip(slices, expected(a, slices), strict=True):
            np.testing.assert_allclose(s.out, y, atol=1e-4)


@pytest.mark.parametrize("name", ["dlrm-rmc1", "wnd", "din"])
@pytest.mark.parametrize("bad", [-1, 10**6])
def test_an_id_outside_its_table_fails_only_its_query(name: str, bad: int, device: str) -> None:
    a = assembly(name)
    engine = DeviceEngine(a, device, precision="fp32", largest=32)
    slices = slices_of(a, SPANS)
    good = expected(a, slices)
    victim = a.model.schema.sparse[0]
    from deeprecsys.zoo.schema import Per

    row = slices[2].first[victim.name] + (slices[2].start if victim.per is Per.ITEM else 0)
    before = a.inputs[victim.name][row, 0]
    a.inputs[victim.name][row, 0] = bad
    try:
        with pytest.raises(IndexError, match=f"input '{victim.name}': expected ids from 0 to .*, got {bad}"):
            engine.score(slices)
        errors = one_by_one(engine, slices)
    finally:
        a.inputs[victim.name][row, 0] = before
    assert [i for i, _ in errors] == [2]
    for i in (0, 1, 3, 4):
        np.testing.assert_allclose(slices[i].out, good[i], atol=1e-4)
    assert np.isnan(slices[2].out).all()
    engine.score(slices)  # the flag of the failed batch is gone
    np.testing.assert_allclose(slices[2].out, good[2], atol=1e-4)


def test_ids_of_padding_are_never_found_wrong(device: str) -> None:
    """A failed batch of 30 leaves its ids in the arena; one of 20 in the same bucket must not see them."""
    a = assembly("dlrm-rmc1")
    engine = DeviceEngine(a, device, precision="fp32", largest=32)
    name = a.model.schema.sparse[0].name
    long = slices_of(a, [(0, 30)])
    row = long[0].first[name] + 29
    before = a.inputs[name][row, 0]
    a.inputs[name][row, 0] = -5
    try:
        for _ in range(2):  # both slots
            with pytest.raises(IndexError):
                engine.score(long)
    finally:
        a.inputs[name][row, 0] = before
    for _ in range(2):
        engine.score(slices_of(a, [(0, 20)]))


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["dlrm-rmc3", "ncf", "wnd", "dien"])
def test_lower_precisions_stay_within_their_bounds(name: str, precision: str, device: str) -> None:
    a = assembly(name)
    engine = DeviceEngine(a, device, precision=precision, largest=32)
    slices = slices_of(a, SPANS)
    engine.score(slices)
    for s, y in zip(slices, expected(a, slices), strict=True):
        np.testing.assert_allclose(s.out, y, atol=BOUND[precision])


def test_tables_larger_than_the_device_are_refused_in_one_line() -> None:
    with pytest.raises(InputError, match=r"tables: expected at most .* GiB free on the device, got .* GiB"):
        DeviceEngine(assembly("dlrm-rmc1"), "cpu", free=1000)


def test_a_precision_that_it_has_not_is_named() -> None:
    with pytest.raises(InputError, match="precision of engine cuda 'int8'"):
        DeviceEngine(assembly("ncf"), "cpu", precision="int8")


def test_a_slice_beyond_its_inputs_rows_fails_and_leaves_the_engine_usable(device: str) -> None:
    a = assembly("ncf")
    engine = DeviceEngine(a, device, precision="fp32", largest=8)
    slices = slices_of(a, [(0, 20)])
    beyond = slices[0]._replace(first=dict.fromkeys(slices[0].first, 590))
    with pytest.raises(ValueError, match="broadcast"):
        engine.score([slices[0], beyond])
    engine.score(slices)
    np.testing.assert_allclose(slices[0].out, expected(a, slices)[0], atol=1e-4)


def test_what_each_pass_took_is_kept_where_asked(device: str) -> None:
    a = assembly("ncf")
    engine = DeviceEngine(a, device, largest=8, timed=True)
    engine.score(slices_of(a, [(0, 20)]))
    assert engine.took is not None
    assert len(engine.took) == 3
    assert all(min(t) >= 0 for t in engine.took)


def test_without_cuda_the_engine_says_so() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    with pytest.raises(InputError, match="engine cuda: expected a CUDA device"):
        build("cuda:bf16", assembly("ncf"))
    with pytest.raises(InputError, match=r"expected \[PRECISION\]\[,compile\]\[,device=N\], got 'bf16,fast'"):
        build("cuda:bf16,fast", assembly("ncf"))

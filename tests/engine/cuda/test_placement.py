"""Several accelerators are several devices."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deeprecsys.core.errors import InputError
from deeprecsys.engine import EngineSpec
from deeprecsys.engine.cuda.engine import cuda_device
from deeprecsys.node.node import NodeConfig


@pytest.mark.parametrize("engine", ["cuda", "cuda:bf16", "cuda:tf32,compile"])
def test_every_worker_gets_a_device_of_its_own_and_else_what_was_asked_for(engine: str) -> None:
    asked = EngineSpec.parse(engine)
    found = [EngineSpec.parse(w) for w in NodeConfig("ncf", gpu=engine, gpus=3).accelerators]
    assert found == [replace(asked, device=i) for i in range(3)]
    assert [cuda_device(e.device or 0, 3) for e in found] == ["cuda:0", "cuda:1", "cuda:2"]


def test_one_accelerator_is_what_was_named_and_an_emulated_one_needs_no_place() -> None:
    named = EngineSpec.parse("cuda:bf16,device=2")
    assert (named.args, named.device) == ("bf16", 2)
    assert [str(e) for e in named.replicas(1)] == ["cuda:bf16,device=2"]
    assert [str(e) for e in EngineSpec.parse("emulated:a,device=0.json").replicas(2)] == [
        "emulated:a,device=0.json"
    ] * 2
    assert NodeConfig("ncf", gpus=2).accelerators == ()


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="expected a device below 2, got device 2"):
        cuda_device(2, 2)
    with pytest.raises(InputError, match="expected a CUDA device and torch built for it, got none"):
        cuda_device(0, 0)


def test_several_workers_on_one_named_device_are_refused_before_anything_starts() -> None:
    with pytest.raises(
        InputError, match="expected 1 where the engine names its device, got 2 of cuda:device=1"
    ):
        NodeConfig("ncf", gpu="cuda:device=1", gpus=2)


@pytest.mark.parametrize("args", ["bf16,fast", "device=x", "device=-1", "fp32,tf32", "threads=2"])
def test_other_arguments_are_refused(args: str) -> None:
    with pytest.raises(InputError, match=r"expected .*device=N"):
        EngineSpec.parse(f"cuda:{args}")

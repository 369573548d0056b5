"""Several accelerators are several devices."""

from __future__ import annotations

import pytest

from deeprecsys.core.errors import InputError
from deeprecsys.engine.cuda.engine import cuda_device
from deeprecsys.engine.placement import CudaOptions, cuda_options, one_each
from deeprecsys.node.node import NodeConfig


@pytest.mark.parametrize("engine", ["cuda", "cuda:bf16", "cuda:tf32,compile"])
def test_every_worker_gets_a_device_of_its_own_and_else_what_was_asked_for(engine: str) -> None:
    asked = cuda_options(engine.partition(":")[2])
    workers = NodeConfig("ncf", gpu=engine, gpus=3).accelerators
    found = [cuda_options(w.partition(":")[2]) for w in workers]
    assert found == [asked._replace(device=i) for i in range(3)]
    assert [cuda_device(o, 3) for o in found] == ["cuda:0", "cuda:1", "cuda:2"]


def test_one_accelerator_is_what_was_named_and_an_emulated_one_needs_no_place() -> None:
    assert one_each("cuda:bf16,device=2", 1) == ("cuda:bf16,device=2",)
    assert one_each("emulated:a,device=0.json", 2) == ("emulated:a,device=0.json",) * 2
    assert NodeConfig("ncf", gpus=2).accelerators == ()


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="expected a device below 2, got device 2"):
        cuda_device(CudaOptions(device=2), 2)
    with pytest.raises(InputError, match="expected a CUDA device and torch built for it, got none"):
        cuda_device(CudaOptions(), 0)


def test_several_workers_on_one_named_device_are_refused_before_anything_starts() -> None:
    with pytest.raises(
        InputError, match="expected 1 where the engine names its device, got 2 of cuda:device=1"
    ):
        NodeConfig("ncf", gpu="cuda:device=1", gpus=2)


@pytest.mark.parametrize("args", ["bf16,fast", "device=x", "device=-1", "fp32,tf32", "threads=2"])
def test_other_arguments_are_refused(args: str) -> None:
    with pytest.raises(InputError, match=r"expected .*device=N"):
        cuda_options(args)

"""Narrower vectors: what the environment says, what is refused, and that compiled code heeds it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deeprecsys.core.errors import InputError
from deeprecsys.engine.isa import ISAS, NAMES, cpu_flags, deaf, environment

AVX2 = frozenset({"sse4_2", "avx2", "fma"})


def test_the_default_leaves_the_environment_alone() -> None:
    assert environment("default", frozenset()) == {}


@pytest.mark.parametrize("isa", list(ISAS))
def test_every_switch_is_set_for_every_width(isa: str) -> None:
    everything = frozenset().union(*(i.needs for i in ISAS.values()))
    found = environment(isa, everything)
    assert set(found) == set(environment("sse42", everything))
    assert all(found.values())
    assert [i.bits for i in ISAS.values()] == sorted({i.bits for i in ISAS.values()})


def test_what_the_cpu_has_not_is_refused_in_one_line() -> None:
    with pytest.raises(InputError, match=r"--isa: .* \(default, sse42, avx2\), got avx512$"):
        environment("avx512", AVX2)
    with pytest.raises(InputError, match=r"unknown isa 'avx51'.*avx512"):
        environment("avx51", AVX2)


def test_libraries_without_a_switch_are_named() -> None:
    assert deaf("compiled") == deaf("compiled:onnxruntime") == ("onnxruntime",)
    assert deaf("compiled:openvino") == ("openvino",)
    assert deaf("compiled:eager") == deaf("eager") == ()


def test_flags_come_from_the_kernels_list(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("model name : x\nflags\t\t: fpu avx2 fma\n\nflags : other\n")
    assert {"avx2", "fma"} <= cpu_flags(tmp_path / "cpuinfo")
    assert "other" not in cpu_flags(tmp_path / "cpuinfo")
    assert cpu_flags(tmp_path / "none") == frozenset()


SUM = """
import numpy as np
from deeprecsys.engine.gather.pool import Kind, _pooling
from deeprecsys.jit import identity
from numba import cfunc
from numba.core import types
pool = cfunc(types.void(*[types.int64] * 4))(_pooling(*Kind(32, "fp32", False, False, 4, 128, 2)))
text = pool.inspect_asm() if hasattr(pool, "inspect_asm") else pool._library.get_asm_str()
print("ymm" in text, "zmm" in text, identity(()))
"""


@pytest.mark.skipif("avx2" not in cpu_flags(), reason="the CPU has but one width")
def test_the_gather_kernel_is_compiled_for_the_width_asked() -> None:
    found = {}
    for isa in ("sse42", "avx2"):
        env = {**os.environ, **environment(isa)}
        run = subprocess.run(
            [sys.executable, "-c", SUM], env=env, capture_output=True, text=True, check=True, timeout=120
        )
        found[isa] = run.stdout.split()
    assert found["sse42"][:2] == ["False", "False"]
    assert found["avx2"][:2] == ["True", "False"]
    assert found["sse42"][2] != found["avx2"][2]  # the names of what is kept on disk differ
    assert set(NAMES) == {"default", *ISAS}

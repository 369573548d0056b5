"""Narrower vectors: what the environment says, what is refused, and that compiled code heeds it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deeprecsys.core.errors import InputError
from deeprecsys.engine.isa import ISAS, NAMES, cpu_flags, environment, ignores_isa
from deeprecsys.engine.spec import EngineSpec

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
    def ignoring(engine: str) -> tuple[str, ...]:
        return ignores_isa(EngineSpec.parse(engine))

    assert ignoring("compiled") == ignoring("compiled:onnxruntime") == ("onnxruntime",)
    assert ignoring("compiled:openvino") == ("openvino",)
    assert ignoring("compiled:eager") == ignoring("eager") == ()


def test_flags_come_from_the_kernels_list(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("model name : x\nflags\t\t: fpu avx2 fma\n\nflags : other\n")
    assert {"avx2", "fma"} <= cpu_flags(tmp_path / "cpuinfo")
    assert "other" not in cpu_flags(tmp_path / "cpuinfo")
    assert cpu_flags(tmp_path / "none") == frozenset()


SUM = """
import numpy as np
from deeprecsys.engine.gather.pool import BagKind, _pooling
from deeprecsys.jit import identity
from numba import cfunc
from numba.core import types
pool = cfunc(types.void(*[types.int64] * 4))(_pooling(*BagKind(32, "fp32", False, False, 4, 128, 2)))
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


HELD = """
import numpy as np, torch
from deeprecsys.engine import Assembly, SliceView, build
from deeprecsys.zoo import model
from deeprecsys.zoo.tables import fill
m = model("ncf").scaled(1e-3)
rng = np.random.default_rng(0)
tables = {t.name: np.empty((t.rows, t.dim), np.float32) for t in m.schema.tables}
for k, t in enumerate(tables.values()):
    fill(t, seed=(1, k))
rows = {i.name: m.schema.table(i.table).rows for i in m.schema.sparse}
inputs = {n: rng.integers(r, size=(20, 1), dtype=np.int32) for n, r in rows.items()}
engine, out = build("compiled:eager", Assembly(m, tables, inputs)), np.empty((20, 1), np.float32)
engine.score([SliceView(dict.fromkeys(inputs, 0), 0, 20, out)])
print(torch.backends.cpu.get_cpu_capability(), engine.arithmetic.replace(" ", "_"), *out[:, 0])
"""


@pytest.mark.skipif("avx2" not in cpu_flags(), reason="the CPU has but one width")
def test_an_engine_all_of_whose_parts_heed_it_scores_the_same_at_each_width() -> None:
    found = {}
    for isa in ("sse42", "avx2"):
        env = {**os.environ, **environment(isa)}
        run = subprocess.run(
            [sys.executable, "-c", HELD], env=env, capture_output=True, text=True, check=True, timeout=120
        )
        found[isa] = run.stdout.split()
    assert [found[isa][0] for isa in ("sse42", "avx2")] == ["DEFAULT", "AVX2"]
    assert found["sse42"][1] == "fp32_rows,_fp32_dense_(eager)"
    scores = [[float(y) for y in found[isa][2:]] for isa in ("sse42", "avx2")]
    assert len(set(scores[0])) > 5
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)

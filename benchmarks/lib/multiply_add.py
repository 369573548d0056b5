"""The core's own limit: the rate of fused multiply-adds on registers alone. No memory, no library."""

from __future__ import annotations

import ctypes
import time

import llvmlite.binding as llvm

from deeprecsys.engine.isa import cpu_flags

CHAINS = 12
"""Independent accumulators: latency 4 x two units, and some to spare."""


def register_gflops() -> float:
    """The rate at this CPU's full vector width."""
    return peak_gflops(16 if "avx512f" in cpu_flags() else 8)


def peak_gflops(lanes: int = 8, seconds: float = 0.3) -> float:
    """Highest fp32 rate seen in several runs: 2 x lanes x multiply-adds per second.

    Args:
        lanes: floats in a vector; 8 for AVX2, 16 for AVX-512.
        seconds: to measure for.
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3
    )
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(_loop(lanes)), target)
    engine.finalize_object()
    call = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_int64, ctypes.c_float)(
        engine.get_function_address("loop")
    )
    count, best, until = 1_000_000, 0.0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        call(count, 0.5)
        best = max(best, 2 * lanes * CHAINS * count / (time.perf_counter() - began))
    return 1e-9 * best


def _loop(lanes: int) -> str:
    """LLVM assembly of `float loop(int64 count, float x)`."""
    v = f"<{lanes} x float>"
    phis = "\n".join(f"  %a{i} = phi {v} [ %x, %entry ], [ %b{i}, %body ]" for i in range(CHAINS))
    fmas = "\n".join(
        f"  %b{i} = call {v} @llvm.fma.v{lanes}f32({v} %a{i}, {v} %x, {v} %x)" for i in range(CHAINS)
    )
    sums = "\n".join(
        f"  %s{i + 1} = fadd {v} %{f's{i}' if i else 'b0'}, %b{i + 1}" for i in range(CHAINS - 1)
    )
    return f"""
declare {v} @llvm.fma.v{lanes}f32({v}, {v}, {v})
define float @loop(i64 %count, float %scalar) {{
entry:
  %one = insertelement {v} zeroinitializer, float %scalar, i32 0
  %x = shufflevector {v} %one, {v} zeroinitializer, <{lanes} x i32> zeroinitializer
  br label %body
body:
  %i = phi i64 [ 0, %entry ], [ %next, %body ]
{phis}
{fmas}
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %count
  br i1 %more, label %body, label %done
done:
{sums}
  %r = extractelement {v} %s{CHAINS - 1}, i32 0
  ret float %r
}}
"""

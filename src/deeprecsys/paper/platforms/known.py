"""The paper's two servers, with the source of each constant; assumptions are marked as such."""

from __future__ import annotations

from deeprecsys.paper.platforms.cpu import CpuSpec

_FACTS = "facts §5"
_LATENCIES = "published: LMBench random loads, AnandTech's review of Skylake-SP against EPYC 7000 (2017)"
_MANUAL = "published: Intel 64 and IA-32 optimisation reference manual, cache parameters, sustained"
_BUFFERS = "published: L1 line fill buffers, 10 up to Broadwell, 12 from Skylake on; 16 superqueue entries"
_COMMON = {
    **dict.fromkeys(("cores", "sockets", "ghz", "lanes", "l2_bytes", "l3_bytes", "inclusive"), _FACTS),
    **dict.fromkeys(("memory_gb_per_s", "watts"), _FACTS),
    "fma_ports": "published: two fused multiply-add units per core (E5-2680 v4; Gold 6138)",
    "l2_bytes_per_cycle": _MANUAL,
    "l3_bytes_per_cycle": _MANUAL,
    "l3_ns": _LATENCIES,
    "memory_ns": _LATENCIES,
    "fill_buffers": _BUFFERS,
    "stream_buffers": _BUFFERS,
    "efficiency": "assumed: what vendors' products reach on large matrices; varied",
    "memory_efficiency": "assumed: share of the peak that random rows reach; varied",
    "zipf": "facts §3: 0.7 to 1.1; the workload's default; varied",
    "operator_us": "from the artefact's single-item batches, about 1.5 µs an operator on a current core "
    "(machine limits in docs/paper.md), twice that on these: assumed; varied",
    "instructions": "published: Skylake over Broadwell by 2 to 6 % (AnandTech's review of the i7-6700K); "
    "varied with launches",
    "batch_us": "measured: round trip through a queue between processes, as the artefact uses; varied",
    "copies": "assumed: one copy per machine; the artefact has one per process; varied",
}

BROADWELL = CpuSpec(
    name="Broadwell", cores=28, sockets=2, ghz=2.4, lanes=8, l2_bytes=256 << 10, l3_bytes=35 << 20,
    inclusive=True, l2_bytes_per_cycle=25, l3_bytes_per_cycle=14, l3_ns=35, memory_ns=95,
    fill_buffers=10, instructions=0.95, memory_gb_per_s=77, watts=120, sources=_COMMON,
)  # fmt: skip
EPYC_7003 = CpuSpec(
    name="EPYC 7003", cores=2, sockets=1, ghz=3.5, lanes=8, l2_bytes=512 << 10, l3_bytes=32 << 20,
    inclusive=False, l2_bytes_per_cycle=32, l3_bytes_per_cycle=27, l3_ns=13.4, memory_ns=105,
    fill_buffers=24, instructions=1.07 * 1.19, memory_gb_per_s=204.8, watts=0.0,
    sources={"all": "published: AMD's data sheets and optimisation guide of family 19h, 46 cycles of L3; "
                    "AnandTech's review of EPYC 7003 (latency of memory); clock: the greatest that is sold"},
)  # fmt: skip
"""What data sheets say of a machine whose batches were measured: the check of what they say of others."""
SKYLAKE = CpuSpec(
    name="Skylake", cores=40, sockets=2, ghz=2.0, lanes=16, l2_bytes=1 << 20, l3_bytes=int(27.5 * (1 << 20)),
    inclusive=False, l2_bytes_per_cycle=52, l3_bytes_per_cycle=15, l3_ns=26, memory_ns=90,
    fill_buffers=12, memory_gb_per_s=85, watts=125, sources=_COMMON,
)  # fmt: skip

"""Compiles the fused gather for a compute capability without a device, and reads the machine code.

A program of its own: Triton decides as it is imported whether it interprets or compiles. It prints a JSON
list, one object for each variant that the zoo's models launch.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from deeprecsys.engine.cuda.kernel import _pool, variant
from deeprecsys.engine.cuda.layout import blocks_of
from deeprecsys.zoo import MODELS

PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
BITS = {"fp32": 32, "bf16": 16}


def variants() -> list[tuple[int, int]]:
    """(dim, look-ups of a bag) of all launches."""
    blocks = [b for m in MODELS.values() for b in blocks_of(m.schema)]
    return sorted({(b.dim, b.lookups if b.pooled else 1) for b in blocks})


def machine_code(dim: int, lookups: int, rows: str, capability: int) -> dict[str, Any]:
    """What a variant became: registers of a thread, bytes, and bits of the widest load by one thread.

    `share_bits` is what a thread can be expected to load at once: its share of the rows that a program asks
    for together, at most 128 bits and within a row.
    """
    chosen = variant(dim, lookups)
    share = chosen["at_once"] * chosen["width"] * BITS[rows] // (32 * chosen["num_warps"])
    warps = chosen.pop("num_warps")
    signature = {
        "ids": "*i32", "table": f"*{rows}", "first": "*i64", "last": "*i64", "flag": "*i32", "out": "*fp32",
        "bags": "i32", "lookups": "i32", "scale": "fp32", **dict.fromkeys(chosen, "constexpr"),
    }  # fmt: skip
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(6)}  # as torch allocates
    source = ASTSource(_pool, signature=signature, constexprs=chosen, attrs=aligned)
    found = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
    report = assembled(found.asm["ptx"], capability)
    used = re.search(r"Used (\d+) registers", report)
    assert used is not None, report
    loads = re.findall(r"ld\.global(?:\.v(\d))?\.b(16|32)", found.asm["ptx"])  # 64 bits: tables' places
    return {
        "dim": dim,
        "lookups": lookups,
        "rows": rows,
        "cubin_bytes": len(found.asm["cubin"]),
        "shared_bytes": found.metadata.shared,
        "registers": int(used[1]),
        "spilled_bytes": sum(map(int, re.findall(r"(\d+) bytes spill", report))),
        "load_bits": max(int(n or 1) * int(bits) for n, bits in loads),
        "share_bits": max(BITS[rows], min(128, dim * BITS[rows], share)),
    }


def assembled(ptx: str, capability: int) -> str:
    """The assembler's report."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        architecture = f"sm_{capability}{'a' if capability >= 90 else ''}"
        command = [PTXAS, "-v", f"-arch={architecture}", file.name, "-o", os.devnull]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr


if __name__ == "__main__":
    found = [machine_code(*v, rows, int(sys.argv[1])) for v in variants() for rows in BITS]
    print(json.dumps(found))

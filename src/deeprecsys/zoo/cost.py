"""Cost arithmetic of dense layers. FLOPs are 2 x multiply-adds; element-wise work is not counted."""

from __future__ import annotations

from itertools import pairwise


def multiply_adds(*widths: int) -> int:
    """Multiply-adds per row of a chain of fully connected layers, `widths[0]` being its input."""
    return sum(a * b for a, b in pairwise(widths))


def parameters(*widths: int) -> int:
    """Weights and biases of a chain of fully connected layers."""
    return sum((a + 1) * b for a, b in pairwise(widths))

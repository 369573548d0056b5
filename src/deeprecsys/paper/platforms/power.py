"""Node power: an idle part, and a dynamic one that grows with utilisation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NodePower:
    """Watts of a node.

    Attributes:
        cpu_w, gpu_w: with everything busy: thermal design power (facts §5).
        idle_share: of those, when nothing is. Barroso and Hölzle (2007): servers idle at about half of their
            peak; varied.
        constant: the paper's accounting: power does not depend on the load.
    """

    cpu_w: float
    gpu_w: float = 0.0
    idle_share: float = 0.5
    constant: bool = False

    def watts(self, cpu_utilisation: float, gpu_utilisation: float = 0.0) -> float:
        """At utilisations in [0, 1]."""
        if self.constant:
            return self.cpu_w + self.gpu_w
        return self._part(self.cpu_w, cpu_utilisation) + self._part(self.gpu_w, gpu_utilisation)

    def _part(self, peak_w: float, utilisation: float) -> float:
        return peak_w * (self.idle_share + (1 - self.idle_share) * min(max(utilisation, 0.0), 1.0))


GTX_NODE = 250.0
"""Watts of the accelerator (facts §5)."""

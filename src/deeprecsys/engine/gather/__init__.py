"""The sparse stage on a kernel of our own: every look-up of a batch in one compiled call."""

from __future__ import annotations

from deeprecsys.engine.gather.gather import Fault, Gather
from deeprecsys.zoo.jagged import Ids
from deeprecsys.zoo.rows import RowFormat, convert

__all__ = ["Fault", "Gather", "Ids", "RowFormat", "convert"]

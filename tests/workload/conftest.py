"""Settings of the property tests."""

from __future__ import annotations

from hypothesis import settings

# A deadline in wall-clock time says more about who else is on the machine than about the code.
settings.register_profile("workload", deadline=None)
settings.load_profile("workload")

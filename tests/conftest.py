"""Settings that all tests share."""

from __future__ import annotations

from hypothesis import settings

# Shared machines stall: a slow example is no defect.
settings.register_profile("deeprecsys", deadline=None, print_blob=True)
settings.load_profile("deeprecsys")

"""Settings that all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

LIVE = {"cli", "custom", "node", "serve"}
"""Folders whose tests run nodes and servers, which take the cores for themselves."""

# Shared machines stall: a slow example is no defect.
settings.register_profile("deeprecsys", deadline=None, print_blob=True)
settings.load_profile("deeprecsys")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.relative_to(here).parts[0] in LIVE:
            item.add_marker(pytest.mark.live)

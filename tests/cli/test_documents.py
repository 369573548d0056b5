"""Commands that start a node write documents and run directories with the keys of release 0.1."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.commands import COMMANDS, RELEASE
from tests.fixtures.compare import assert_as_before

LIVE = [name for name, command in COMMANDS.items() if command.live]


@pytest.mark.live
@pytest.mark.parametrize("name", LIVE)
def test_a_command_writes_the_keys_that_it_wrote(name: str, tmp_path: Path) -> None:
    profile = RELEASE / "profile.profile.json"
    if name != "profile":
        (tmp_path / profile.name).write_bytes(profile.read_bytes())
    assert_as_before(name, tmp_path)

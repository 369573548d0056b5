"""The fixtures of the command line."""

from tests.cli.conftest import refused

__all__ = ["refused"]

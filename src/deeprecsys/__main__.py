"""The `deeprecsys` command, also as `python -m deeprecsys`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command. Loading it takes a moment, in which Ctrl-C ends it as it does later."""
    try:
        from deeprecsys.cli import main as command
    except KeyboardInterrupt:
        sys.stderr.write("deeprecsys: interrupted\n")
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()

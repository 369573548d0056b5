"""The `deeprecsys` command, also as `python -m deeprecsys`."""

from __future__ import annotations

import os
import sys

CLASH = "deeprecsys-"
"""How the metadata of another distribution with modules of our name begins; ours: `deeprecsys_serve-`."""


def main() -> None:
    """Run the command. Loading it takes a moment, in which Ctrl-C ends it as it does later."""
    try:
        warn_of_clash(os.path.dirname(os.path.dirname(__file__)))
        from deeprecsys.cli import main as command
    except KeyboardInterrupt:
        sys.stderr.write("deeprecsys: interrupted\n")
        sys.exit(130)
    command()


def warn_of_clash(packages: str) -> None:
    """Write one line to standard error if `packages`, where this package is, has another of its name."""
    if any(name.startswith(CLASH) and name.endswith(".dist-info") for name in os.listdir(packages)):
        sys.stderr.write(
            "deeprecsys: the other distribution of this name has put files among those of deeprecsys-serve: "
            "pip uninstall deeprecsys, then pip install --force-reinstall --no-deps deeprecsys-serve\n"
        )


if __name__ == "__main__":
    main()

"""`python -m deeprecsys` is the `deeprecsys` command."""

from deeprecsys.cli import main

main()

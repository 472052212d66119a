"""`python -m control.cli` is the `ta` command."""

from control.cli import main

main()

"""The command line: `fm` and `flowmason`.

Here may live what reads arguments and prints answers. Each command is a module of its own that is imported when it is
invoked; a terminal is drawn on with rich, which is imported only where something is drawn. What a command does lies
below, in `assembly` and the makers.
"""

from __future__ import annotations


def main() -> None:
    """The entry point."""
    from flowmason.cli.app import run_app

    run_app()

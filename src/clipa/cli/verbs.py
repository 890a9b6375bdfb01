"""How a verb of the command line looks: one line about it, an example, the options that all share."""

from __future__ import annotations

import argparse
from collections.abc import Callable

Verb = Callable[[argparse.Namespace], int]


def add_verb(
    verbs, name: str, call: Verb, about: str, example: str, *, asked: bool = True
) -> argparse.ArgumentParser:
    """A verb with its one-line gloss, an example, and (``asked``) the options that name the configuration."""
    parser = verbs.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=f"example:\n  clipa {name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(call=call)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    if asked:
        parser.add_argument(
            "--scale", help="a file of config/scales (default: the one in config/config.yaml)"
        )
        parser.add_argument(
            "--runs-directory", metavar="DIR", help="where jobs write (default: results/runs)"
        )
        parser.add_argument("--data-directory", metavar="DIR", help="where data lies (default: results/data)")
    return parser

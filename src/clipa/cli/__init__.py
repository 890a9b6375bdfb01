"""The command line: ``clipa COMMAND``, one command for each thing that a rule of the workflow does.

Only parsing happens here; a command imports what it needs when it runs, so that ``clipa --help`` is instant.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence

from clipa import __version__
from clipa.cli import data, datasets, evaluation, init, jobs, preflight, reading, watch

_ABOUT = """\
The inverse scaling law for CLIP training (arXiv:2305.07017), executable.

Snakemake calls these commands in the right order; start there:
  snakemake figures/figure4.pdf                       a figure from the published numbers, in seconds
  snakemake measure_figure4 --config scale=micro-v1   the same from measured numbers
  make demo                                           the law measured at a small scale, with a progress bar

Useful by themselves: cite, claims, law, compare, plan. `clipa COMMAND --help` has an example of each.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and run one command; returns the exit code. A mistake is one line on standard error and code 1."""
    options = parser()
    chosen = options.parse_args(arguments)
    if chosen.verb is None:
        options.print_help()
        return 0
    try:
        code = chosen.call(chosen)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads has seen enough: `clipa cite … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, RuntimeError) as error:
        expected = isinstance(error, (ValueError, OSError)) or type(error).__module__.startswith("clipa.")
        if chosen.debug or not expected:
            raise
        print(f"clipa {chosen.verb}: {_one_line(error, chosen)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"clipa {chosen.verb}: interrupted", file=sys.stderr)
        return 130


_FULL = "make space, and run the same command again"
_WRITABLE = "make it writable, or choose another directory"
_ADVICE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EACCES: _WRITABLE,
    errno.EPERM: _WRITABLE,
    errno.EROFS: _WRITABLE,
}


def _one_line(error: Exception, chosen: argparse.Namespace) -> str:
    """What, where and what to do. A file that the error does not name is in the stage's directory, if it trains."""
    _silence_a_full_output()
    if isinstance(error, OSError) and error.strerror:
        # All other writers name their file.
        place = error.filename or getattr(chosen, "file", "standard output")
        advice = _ADVICE.get(error.errno, "")
        return f"{place}: {error.strerror}{advice and '; '}{advice}"
    said = " ".join(str(error).split()) or type(error).__name__
    return f"{said}; {_FULL}" if "No space left on device" in said else said


def _silence_a_full_output() -> None:
    """Where what was printed cannot be written nothing more is, so that Python's exit adds no lines."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# ----------------------------------------------------------------------------------------------------- parsing


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(
        prog="clipa",
        description=_ABOUT,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=16, width=100
        ),
    )
    top.add_argument("--version", action="version", version=f"clipa {__version__}")
    top.set_defaults(verb=None, debug=False)
    verbs = top.add_subparsers(title="commands", dest="verb", metavar="COMMAND")
    reading.add_verbs(verbs)
    init.add_verbs(verbs)
    datasets.add_verbs(verbs)
    data.add_verbs(verbs)
    jobs.add_verbs(verbs)
    preflight.add_verbs(verbs)
    evaluation.add_verbs(verbs)
    watch.add_verbs(verbs)
    return top

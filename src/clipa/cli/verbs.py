"""What the commands share: help with an example, the options that name the configuration, and what these override."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

Verb = Callable[[argparse.Namespace], int]

RUNS = (
    "runs are named in the paper's coordinates, and by their recipe where it is not the study's: "
    "L16-resize64-truncation32, B16-resize112-truncation16-clipa-batch8k (config/recipes.yaml)"
)


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


def overrides(chosen: argparse.Namespace) -> dict[str, str]:
    """What the options that all verbs share override in config/config.yaml."""
    given = {
        "scale": chosen.scale,
        "runs_directory": chosen.runs_directory,
        "data_directory": chosen.data_directory,
    }
    return {key: value for key, value in given.items() if value is not None}


def project_of(chosen: argparse.Namespace):
    """The project, with what the options override. ConfigError for any mistake."""
    from clipa.config import load_project

    return load_project(overrides(chosen))


def data_of(chosen: argparse.Namespace):
    """The scale; its data, or the source that is asked for; and that one's folder. ConfigError for any mistake."""
    from clipa.config import ConfigError, load_scale
    from clipa.resolved import data_slug

    project = project_of(chosen)
    scale = load_scale(project.scale)
    data, source = scale.data, getattr(chosen, "source", None)
    if source is not None:
        if source not in scale.sources:
            known = ", ".join(scale.sources) or "none"
            raise ConfigError(
                f"--source {source}: scale {scale.name} has no such data source (known: {known})"
            )
        data = scale.sources[source]
    return scale, data, Path(project.data_directory, data_slug(data))


def stages_asked(chosen: argparse.Namespace, run: str | None = None):
    """The project and the stages of the run that is asked for (``run``, else the argument), in training order."""
    from clipa.config import load_scale
    from clipa.stages import stages_of
    from clipa.study import parse_run

    project = project_of(chosen)
    return project, stages_of(parse_run(run or chosen.run), load_scale(project.scale), chosen.seed)

"""What the options that all of the jobs' verbs share ask for."""

from __future__ import annotations

import argparse


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

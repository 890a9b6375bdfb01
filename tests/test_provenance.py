"""Provenance: the commit of this code, whether it was changed, versions; never a path."""

import subprocess
from importlib import metadata
from pathlib import Path

import numpy
import pytest

from clipa import provenance
from clipa.records import check_document
from fabricated import measured_record


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A git checkout with one committed code file and one picture; the module believes that it lies there."""
    code = tmp_path / "src" / "clipa"
    code.mkdir(parents=True)
    (code / "provenance.py").write_text("code\n")
    (tmp_path / "picture.png").write_text("old\n")
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(provenance, "_SOURCE", code)
    return tmp_path


def test_commit_is_clean_until_code_changes(checkout):
    head, dirty = provenance.commit()
    assert len(head) == 40 and dirty is False
    (checkout / "picture.png").write_text("drawn again\n")
    assert provenance.commit() == (head, False)
    (checkout / "src" / "clipa" / "new.py").write_text("uncommitted\n")
    assert provenance.commit() == (head, True)


def test_code_that_git_does_not_track_has_no_commit(checkout, monkeypatch):
    installed = checkout / "environment" / "clipa"
    installed.mkdir(parents=True)
    (installed / "provenance.py").write_text("a copy\n")
    monkeypatch.setattr(provenance, "_SOURCE", installed)
    assert provenance.commit() == (None, None)


def test_description_holds_versions_and_hardware_but_no_path():
    described = provenance.describe(accelerator="a card")
    assert described["packages"]["numpy"] == metadata.version("numpy")
    assert described["hardware"].endswith("cores, a card")
    record = measured_record("S/16", "none", "pretrain", 0, numpy.ones(8, bool))
    check_document(
        {"schema_version": 1, "records": [record | {"provenance": record["provenance"] | described}]}, "it"
    )
    assert provenance.packages(("no-such-package",)).keys() == {"python"}

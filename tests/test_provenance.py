"""Provenance: the commit of this code, whether it was changed, versions; never a path."""

import hashlib
import re
import subprocess
from importlib import metadata
from pathlib import Path

import numpy
import pytest

from clipa import provenance
from clipa.records import RecordError, check_document
from fabricated import measured_record

ROOT = Path(__file__).resolve().parent.parent
IMAGE, LOCK = f"sha256:{'a1' * 32}", "0f" * 32


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


def check_with(described: dict) -> None:
    record = measured_record("S/16", "none", "pretrain", 0, numpy.ones(8, bool))
    described = record["provenance"] | described
    check_document({"schema_version": 1, "records": [record | {"provenance": described}]}, "it")


def test_outside_of_a_container_nothing_is_said_of_one(monkeypatch):
    for name in provenance.CONTAINER:
        monkeypatch.delenv(name, raising=False)
    assert "container" not in provenance.describe()


@pytest.mark.parametrize("image", [None, "", IMAGE])
def test_a_container_is_described_by_its_lock_and_its_image_where_that_is_told(monkeypatch, image):
    monkeypatch.setenv("CLIPA_CONTAINER_LOCK", LOCK)
    monkeypatch.delenv("CLIPA_CONTAINER_IMAGE", raising=False)
    if image is not None:
        monkeypatch.setenv("CLIPA_CONTAINER_IMAGE", image)
    described = provenance.describe()
    assert described["container"] == {"lock": LOCK} | ({"image": IMAGE} if image else {})
    check_with(described)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CLIPA_CONTAINER_IMAGE", "clipa:latest"),
        ("CLIPA_CONTAINER_IMAGE", "a1" * 32),
        ("CLIPA_CONTAINER_IMAGE", f"{IMAGE}\n"),
        ("CLIPA_CONTAINER_LOCK", "0F" * 32),
        ("CLIPA_CONTAINER_LOCK", "0f" * 31),
    ],
)
def test_a_malformed_digest_is_refused_in_one_line_and_by_the_schema(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=rf"^the environment variable {name} is .*: expected [^\n]*$"):
        provenance.describe()
    with pytest.raises(RecordError, match="container"):
        check_with({"container": {name.rpartition("_")[2].lower(): value}})


def test_the_image_is_made_from_the_training_lock_and_says_its_digest():
    """No digest is typed: `make container` computes the lock's, and the build compares it and hands it on."""
    definition = (ROOT / "envs" / "Containerfile").read_text(encoding="utf-8")
    assert "ARG LOCK=train\n" in definition and "COPY bootstrap.lock ${LOCK}.lock " in definition
    assert not re.search("[0-9a-f]{40}", definition) and "--require-hashes" in definition
    assert "sha256sum --check --strict" in definition
    for key in ("CLIPA_CONTAINER_LOCK", "clipa.lock.sha256"):
        assert f"{key}=${{LOCK_SHA256}}" in definition
    assert "CLIPA_CONTAINER_LOCK" in provenance.CONTAINER
    done = subprocess.run(["make", "-n", "container"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--file envs/Containerfile" in done.stdout
    digest = hashlib.sha256((ROOT / "envs" / "train.lock").read_bytes()).hexdigest()
    assert f"--build-arg LOCK_SHA256={digest}" in done.stdout

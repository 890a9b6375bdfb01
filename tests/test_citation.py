"""CITATION.cff: the paper, this artifact, and what it is built on, with the versions that are locked."""

import re
from pathlib import Path

import pytest
import yaml

from clipa import __version__

ROOT = Path(__file__).resolve().parent.parent
CFF = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
SOFTWARE = {
    re.match(r"Package ([\w.-]+)", entry["notes"])[1]: entry
    for entry in CFF["references"]
    if entry["type"] == "software"
}


def locked() -> dict[str, str]:
    """Every locked version; the training environment's where the download environment has another."""
    versions = {}
    for name in ("data", "train"):
        text = (ROOT / "envs" / f"{name}.lock").read_text(encoding="utf-8")
        versions |= dict(re.findall(r"(?m)^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;]+)", text))
    return versions


def test_artifact_and_paper_are_named():
    assert CFF["cff-version"] == "1.2.0"
    assert CFF["version"] == __version__
    paper = CFF["preferred-citation"]
    assert paper["title"] == "An Inverse Scaling Law for CLIP Training"
    assert [person["family-names"] for person in paper["authors"]] == ["Li", "Wang", "Xie"]
    assert paper["identifiers"][0]["value"] == "arXiv:2305.07017"


def test_cited_versions_are_those_that_are_locked():
    versions = locked()
    assert {name: entry["version"] for name, entry in SOFTWARE.items()} == {
        name: versions[name] for name in SOFTWARE
    }


def test_what_results_rest_on_is_cited():
    """Everything that environments ask for by name and that measures, evaluates, draws, checks or plans."""
    asked = set()
    for name in ("reader", "train", "data"):
        for line in (ROOT / "envs" / f"{name}.in").read_text(encoding="utf-8").splitlines():
            if found := re.match(r"([A-Za-z0-9_.-]+)(?:\[|[=<>]|$)", line):
                asked.add(found[1].lower().replace("_", "-"))
    plumbing = {
        "pygments",
        "rich",
        "altair",  # draws one page; what is drawn is text
        "vl-convert-python",
        "tqdm",
        "huggingface-hub",
        "snakefmt",
        "pytest-xdist",
        "snakemake-executor-plugin-slurm",
        "transformers",  # open_clip reads an exported vocabulary with it
    }
    assert asked - plumbing <= set(SOFTWARE)
    # These come with others, and numbers pass through them.
    assert {"webdataset", "matplotlib", "pyyaml"} <= set(SOFTWARE)


@pytest.mark.parametrize("reference", CFF["references"], ids=lambda reference: reference["title"][:40])
def test_references_are_whole(reference):
    assert reference["authors"]
    if reference["type"] == "software":
        assert reference["repository-code"].startswith("https://")
        return
    assert 2020 <= reference["year"] <= 2023
    for identifier in reference.get("identifiers", []):
        assert re.fullmatch(r"arXiv:\d{4}\.\d{5}", identifier["value"])
    assert reference.get("identifiers") or reference.get("conference")
